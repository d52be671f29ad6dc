"""`webhooks session`: the record of one charging session, and its timeline of deliveries, runs and pushes."""

from collections.abc import Sequence

import click

from handlers.kit.session import Session
from ingest.config.settings import Settings
from workers.commands import options
from workers.commands.errors import Failure
from workers.commands.output import console, json_line, key_values, table
from workers.commands.stores import open_inbox, read_only_ledger
from workers.dev.env_file import settings_with_dev_defaults
from workers.diagnostics.session_timeline import TimelineEntry, timeline
from workers.ledger import sessions
from workers.ledger.cdr_queries import CdrRow
from workers.ledger.session_polls import PollState
from workers.lists.delivery_sources import in_inbox_only
from workers.lists.formatting import clock_name, printable
from workers.lists.session_list import record_pairs, timeline_rows
from workers.lists.session_record import read_session
from workers.plugins import learn_events


@click.command()
@click.argument("session_id", metavar="ID")
@options.as_json
def session(*, session_id: str, as_json: bool) -> None:
    """Show one charging session: its record; and what came when, how late, what it changed and what we did."""
    settings = settings_with_dev_defaults()
    learn_events(settings)
    with open_inbox(settings) as outbox, read_only_ledger(settings) as conn:
        waiting = sum(row.session_id == session_id for row in in_inbox_only(outbox, conn))
        found = read_session(conn, settings, session_id)
    if not found.is_known:
        inbox = f"; {waiting} of its deliveries are in the inbox" if waiting else ""
        raise Failure(f"The ledger has no session '{printable(session_id)}'{inbox}.")
    if as_json:
        json_line(found.json())
        return
    _print_session(found.session, found.entries, found.cdrs, found.poll)
    if waiting:
        click.echo(f"Still on its way from the inbox: {waiting}.", err=True)


def show_session(settings: Settings, session_id: str) -> None:
    """Print the record and the timeline of a session, as the demo of `dev` does."""
    with read_only_ledger(settings) as conn:
        record, entries = sessions.get(conn, session_id), timeline(conn, session_id, settings.clock_skew)
    click.echo()
    _print_session(record or Session.empty(session_id), entries)
    click.echo()


def _print_session(
    record: Session, entries: Sequence[TimelineEntry], cdrs: Sequence[CdrRow] = (), poll: PollState | None = None
) -> None:
    """Print a session for a person: the record, and below it the timeline."""
    key_values(record_pairs(record, cdrs, poll))
    console().print()
    table((f"time ({clock_name()})", "late", "what came", "result"), timeline_rows(record, entries, cdrs))
