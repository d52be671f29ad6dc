"""`webhooks sessions`: the charging sessions, listed by their last news."""

from datetime import datetime

import click

from workers.commands import options
from workers.commands.listing import Page, paged, print_rows
from workers.commands.stores import read_only_ledger
from workers.dev.env_file import settings_with_dev_defaults
from workers.ledger import session_queries
from workers.ledger.session_queries import OPEN_STATUSES, SessionFilters
from workers.lists.session_list import SESSION_ROWS


@click.command()
@click.option("--status", type=click.Choice(OPEN_STATUSES), help="Only those that have not ended, or one of these.")
@options.user
@options.since_option(help="Last news then or later: 10m, 2h or 3d ago, today, yesterday, 18:00, ISO 8601.")
@options.until_option(help="Last news before then.")
@paged
def sessions(
    *, status: str | None, user_id: str | None, since: datetime | None, until: datetime | None, page: Page
) -> None:
    """List charging sessions, those with the latest news first. One of them whole is `webhooks session ID`."""
    filters = SessionFilters(user_id=user_id, status=status, since=since, until=until)
    with read_only_ledger(settings_with_dev_defaults()) as conn:
        print_rows(SESSION_ROWS, session_queries.find(conn, filters, page.limit), page)
