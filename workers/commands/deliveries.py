"""`webhooks deliveries` and `webhooks dead`: what arrived, when nothing could arrive, and what failed for good."""

from collections.abc import Iterator
from datetime import datetime
from itertools import islice

import click

from ingest.config.settings import Settings
from workers.commands import options
from workers.commands.errors import Failure
from workers.commands.listing import Page, paged, print_rows
from workers.commands.stores import open_inbox, read_only_ledger
from workers.dev.env_file import settings_with_dev_defaults
from workers.ledger import deliveries as ledger_deliveries
from workers.ledger import downtimes as ledger_downtimes
from workers.ledger.deliveries import DeliveryFilters
from workers.ledger.states import DeliveryState, Outcome
from workers.lists.delivery_list import (
    DEAD_LETTERS,
    DELIVERIES,
    DOWNTIMES,
    KnownDowntime,
    dead_letters,
    known_downtimes,
)
from workers.lists.delivery_sources import from_ledger_and_inbox


@click.command()
@click.option("--state", type=click.Choice([state.value for state in DeliveryState]), help="Only those in this state.")
@click.option("--event", metavar="NAME", help="The event's name as it was sent, e.g. SESSION_STARTED.")
@click.option("--session", "session_id", metavar="ID", help="The charging session that it is about.")
@options.user
@click.option("--gaps", is_flag=True, help="List the downtimes, in which nothing could arrive, instead.")
@options.since
@options.until
@paged
def deliveries(  # noqa: PLR0913  the options are the interface
    *,
    state: str | None,
    event: str | None,
    session_id: str | None,
    user_id: str | None,
    gaps: bool,
    since: datetime | None,
    until: datetime | None,
    page: Page,
) -> None:
    """List deliveries and their runs, newest first: the ledger's, and those that wait in this node's inbox."""
    settings = settings_with_dev_defaults()
    if gaps:
        print_rows(DOWNTIMES, islice(_downtimes(settings, since, until), page.limit), page)
        return
    wanted = DeliveryState(state) if state else None
    filters = DeliveryFilters(
        state=wanted, event=event, session_id=session_id, person=user_id, since=since, until=until
    )
    with open_inbox(settings) as outbox, read_only_ledger(settings) as conn:
        print_rows(DELIVERIES, from_ledger_and_inbox(outbox, conn, filters, page.limit), page)


@click.command()
@click.option("--handler", metavar="NAME", help="Only those of this handler.")
@options.user
@options.since
@options.until
@paged
def dead(
    *, handler: str | None, user_id: str | None, since: datetime | None, until: datetime | None, page: Page
) -> None:
    """List dead letters: runs that failed for good, and why. `webhooks replay` gives them another attempt."""
    filters = DeliveryFilters(handler=handler, outcome=Outcome.DEAD, person=user_id, since=since, until=until)
    with read_only_ledger(settings_with_dev_defaults()) as conn:
        rows = ledger_deliveries.find(conn, filters, page.limit)
    print_rows(DEAD_LETTERS, islice(dead_letters(rows, handler), page.limit), page)


def _downtimes(settings: Settings, since: datetime | None, until: datetime | None) -> Iterator[KnownDowntime]:
    """Yield the downtimes of this node's inbox and, if there is a ledger, of all others, newest first."""
    with open_inbox(settings) as outbox:
        here = [] if outbox is None else outbox.downtimes()
    try:
        with read_only_ledger(settings) as conn:
            rows = ledger_downtimes.find(conn)
    except Failure:
        rows = []
    return known_downtimes(here, rows, since, until)
