"""Lists of pushes, and of fee warnings."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta

from workers.ledger.fee_warnings import FeeWarningRow, WarningOutcome
from workers.ledger.pushes import PushRow
from workers.ledger.states import PushState
from workers.lists.formatting import pluralize, printable, short_id
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


@dataclass(frozen=True)
class WarningTotals:
    """Counts of warnings by outcome and reason, and of fees by whether they were avoided."""

    outcomes: Counter[tuple[WarningOutcome, str | None]] = field(default_factory=Counter)
    fees: dict[tuple[str | None, str | None], bool | None] = field(default_factory=dict)

    def count(self, rows: Iterable[FeeWarningRow]) -> Iterator[FeeWarningRow]:
        """Yield the rows, newest first, and count each."""
        for row in rows:
            self.outcomes[row.outcome, row.reason] += 1
            self.fees.setdefault((row.session_id, row.fee_type), row.fee_avoided)
            yield row

    def lines(self) -> Iterator[str]:
        """Format the totals, with the most frequent reasons."""
        if not self.outcomes:
            return
        yield ""
        for outcome, words in (
            (WarningOutcome.SENT, "warned in time"),
            (WarningOutcome.LATE, "too late"),
            (WarningOutcome.MOOT, "nobody to tell, or nothing to tell any more"),
            (WarningOutcome.DEAD, "given up"),
            (WarningOutcome.WAITING, "waiting"),
        ):
            why = Counter({reason: count for (each, reason), count in self.outcomes.items() if each is outcome})
            reasons = [f"{count:,} {printable(reason)}" for reason, count in why.most_common(REASONS_SHOWN) if reason]
            if why:
                yield f"{why.total():,} {words}" + (f": {'; '.join(reasons)}" if reasons else "")
        fees = Counter(self.fees.values())
        ends = f"{fees[True]:,} avoided, {fees[False]:,} incurred, {fees[None]:,} open"
        yield f"{pluralize(len(self.fees), 'fee')}: {ends}"
