"""`webhooks warnings`: was each driver warned in time of a fee, and did it help."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import islice

import click

from ingest.wire.timestamps import utc_now
from workers.commands import options
from workers.commands.listing import Listing, Page, attributes, paged
from workers.commands.output import pluralize, printable
from workers.commands.stores import read_only_ledger
from workers.dev.env_file import settings_with_dev_defaults
from workers.ledger import fee_warnings
from workers.ledger.fee_warnings import FeeWarningRow, WarningFilters, WarningOutcome

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


@click.command()
@options.user
@click.option("--session", "session_id", metavar="ID", help="The charging session.")
@options.since
@options.until
@paged
def warnings(
    *, user_id: str | None, session_id: str | None, since: datetime | None, until: datetime | None, page: Page
) -> None:
    """List fee warnings, newest notice first: was each sent in time, else why not, and did the session end in time.

    The totals are of all that match. A fee that has been noticed more than once counts there once, by its last notice.
    """
    filters = WarningFilters(since=since, until=until, user_id=user_id, session_id=session_id)
    with read_only_ledger(settings_with_dev_defaults()) as conn:
        rows, totals = fee_warnings.find(conn, filters, utc_now()), WarningTotals()
        if page.as_json:
            WARNINGS.print(islice(rows, page.limit), page)
            return
        counted = totals.count(rows)
        WARNINGS.print(islice(counted, page.limit), page)
        for _ in counted:  # the limit is of the table only
            pass
    for line in totals.lines():
        click.echo(line)


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
