"""Lists of pushes, and of fee warnings."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from ingest.wire.timestamps import utc_now
from workers.ledger import fee_warnings
from workers.ledger import pushes as ledger_pushes
from workers.ledger.fee_warnings import FeeWarningRow, WarningFilters, WarningOutcome
from workers.ledger.pushes import PushRow
from workers.ledger.states import PushState
from workers.lists.formatting import local, pluralize, printable, short_id
from workers.lists.list_query import SESSION, SINCE, UNTIL, USER, Filter, ListQuery, Selection, Stores
from workers.lists.listing import Listing, attributes

PUSHES = Listing[PushRow](
    fields=attributes(
        *("id", "session_id", "user_id", "channel", "state", "title", "body", "expires_at", "sent_at", "attempts")
    ),
    columns={
        "made": lambda push: push.created_at,
        "id": lambda push: short_id(push.id),
        "session": "session_id",
        "user": "user_id",
        "channel": "channel",
        "state": "state",
        "text": lambda push: f"{push.title}: {push.body}" + (f" ({push.error})" if push.error else ""),
    },
)


RETRIABLE = (PushState.DEAD, PushState.EXPIRED)


REASONS_SHOWN = 5


WARNINGS = Listing[FeeWarningRow](
    fields=attributes(
        *("session_id", "user_id", "fee_type", "fee_will_apply_from", "received_at", "sent_at", "lead_seconds"),
        *("outcome", "reason", "session_ended_at", "fee_avoided"),
    ),
    columns={
        "noticed": "received_at",
        "session": "session_id",
        "user": "user_id",
        "fee": "fee_type",
        "from": "fee_will_apply_from",
        "outcome": "outcome",
        "lead": lambda row: None if row.lead_seconds is None else timedelta(seconds=row.lead_seconds),
        "fee avoided": "fee_avoided",
        "reason": lambda row: row.reason or "",
    },
)

WARNING_WORDS = {
    WarningOutcome.SENT: "warned in time",
    WarningOutcome.LATE: "too late",
    WarningOutcome.MOOT: "nobody to tell, or nothing to tell any more",
    WarningOutcome.DEAD: "given up",
    WarningOutcome.WAITING: "waiting",
}


def warnings_in_words(counts: Mapping[str, int]) -> dict[str, int]:
    """Return counts of warnings by what became of them, in words."""
    return {WARNING_WORDS[WarningOutcome(outcome)]: count for outcome, count in counts.items()}


@dataclass(frozen=True)
class WarningTotals:
    """Counts of warnings by outcome and reason, and of fees by whether they were avoided."""

    since: datetime | None = None
    """Which notices are counted: those received then or later."""
    outcomes: Counter[tuple[WarningOutcome, str | None]] = field(default_factory=Counter)
    fees: dict[tuple[str | None, str | None], bool | None] = field(default_factory=dict)

    def count(self, rows: Iterable[FeeWarningRow]) -> Iterator[FeeWarningRow]:
        """Yield the rows, newest first, and count each that is to be counted."""
        for row in rows:
            if self.since is None or row.received_at >= self.since:
                self.outcomes[row.outcome, row.reason] += 1
                self.fees.setdefault((row.session_id, row.fee_type), row.fee_avoided)
            yield row

    def lines(self) -> Iterator[str]:
        """Format the totals, with the most frequent reasons."""
        if not self.outcomes:
            return
        yield "" if self.since is None else f"\nSince {local(self.since)} (--since says otherwise):"
        for outcome, words in WARNING_WORDS.items():
            why = Counter({reason: count for (each, reason), count in self.outcomes.items() if each is outcome})
            reasons = [f"{count:,} {printable(reason)}" for reason, count in why.most_common(REASONS_SHOWN) if reason]
            if why:
                yield f"{why.total():,} {words}" + (f": {'; '.join(reasons)}" if reasons else "")
        fees = Counter(self.fees.values())
        ends = f"{fees[True]:,} avoided, {fees[False]:,} incurred, {fees[None]:,} open"
        yield f"{pluralize(len(self.fees), 'fee')}: {ends}"


def _find_pushes(stores: Stores, wanted: Selection) -> list[PushRow]:
    return ledger_pushes.find(
        stores.ledger,
        session_id=wanted.get("session"),
        person=wanted.get("user"),
        state=wanted.get("state"),
        channel=wanted.get("channel"),
        since=wanted.get("since"),
        until=wanted.get("until"),
        before=wanted.before,
        limit=wanted.limit,
    )


def _find_warnings(stores: Stores, wanted: Selection) -> Iterator[FeeWarningRow]:
    filters = WarningFilters(
        since=wanted.get("since"),
        until=wanted.get("until"),
        user_id=wanted.get("user"),
        session_id=wanted.get("session"),
    )
    return fee_warnings.find(stores.ledger, filters, utc_now(), wanted.before)


PUSH_QUERY = ListQuery[PushRow](
    name="pushes",
    title="Pushes",
    listing=PUSHES,
    has_pages_of_rows=True,
    find=_find_pushes,
    position=lambda row: (row.created_at, row.id),
    filters=(
        Filter("state", "", PushState, tuple(PushState)),
        Filter("channel", "fcm, http, log"),
        SESSION,
        USER,
        SINCE,
        UNTIL,
    ),
)
WARNING_QUERY = ListQuery[FeeWarningRow](
    name="warnings",
    title="Fee warnings",
    hint="One line for each fee notice: whether its driver was warned in time, else why not, and whether it helped.",
    listing=WARNINGS,
    find=_find_warnings,
    position=lambda row: (row.received_at, row.delivery_id),
    filters=(SESSION, USER, SINCE, UNTIL),
)
