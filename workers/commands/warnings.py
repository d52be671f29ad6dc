"""`webhooks warnings`: was each driver warned in time of a fee, and did it help."""

from datetime import datetime, timedelta
from itertools import islice

import click

from ingest.wire.timestamps import utc_now
from workers.commands import options
from workers.commands.listing import Page, paged, print_rows
from workers.commands.stores import read_only_ledger
from workers.dev.env_file import settings_with_dev_defaults
from workers.ledger import fee_warnings
from workers.ledger.fee_warnings import WarningFilters
from workers.lists.push_list import WARNINGS, WarningTotals

TOTALS_SPAN = timedelta(days=7)
"""The totals of a list without filters: those of all warnings would take longer every day."""


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

    The totals are of all that match, or of the last seven days if nothing is asked for. A fee that has been noticed
    more than once counts there once, by its last notice.
    """
    filters = WarningFilters(since=since, until=until, user_id=user_id, session_id=session_id)
    counted_since = utc_now() - TOTALS_SPAN if filters == WarningFilters() else None
    with read_only_ledger(settings_with_dev_defaults()) as conn:
        rows, totals = fee_warnings.find(conn, filters, utc_now()), WarningTotals(counted_since)
        if not page.is_for_people:
            print_rows(WARNINGS, islice(rows, page.limit), page)
            return
        counted = totals.count(rows)
        print_rows(WARNINGS, islice(counted, page.limit), page)
        for row in counted:  # the limit is of the table only
            if counted_since is not None and row.received_at < counted_since:
                break
    for line in totals.lines():
        click.echo(line)
