"""The command `dev`: everything in one terminal."""

import click

from handlers.kit.session import Session
from ingest.config.settings import Settings
from workers.commands.session import print_session
from workers.commands.stores import read_only_ledger
from workers.dev import dev as house
from workers.diagnostics.session_timeline import timeline
from workers.ledger import sessions

HIGHEST_PORT = 65_532


@click.command()
@click.option("--demo", is_flag=True, help="Play one charging session and show what becomes of it.")
@click.option("--exit", "ends", is_flag=True, help="End after the demo: 0 only if everything came true.")
@click.option(
    "--port",
    type=click.IntRange(1, HIGHEST_PORT),
    help="Serve on this port; the dashboard is on the next but one, Valkey on the one after.  [default: 8000]",
)
@click.pass_context
def dev(ctx: click.Context, *, demo: bool, ends: bool, port: int | None) -> None:
    """Run everything in this terminal: the door, workers, clock, dashboard, and a Valkey unless REDIS_URL is set.

    Signing keys that are not set are made up. Nothing is lost by Ctrl-C: what was kept is worked on the next time.
    """
    if ends and not demo:
        raise click.UsageError("--exit needs --demo.")
    ctx.exit(house.dev(port, show_session if demo else None, ends=ends))


def show_session(settings: Settings, session_id: str) -> None:
    """Print the record and the timeline of a session."""
    with read_only_ledger(settings) as conn:
        record, told = sessions.get(conn, session_id), timeline(conn, session_id, settings.clock_skew)
    click.echo()
    print_session(record or Session.empty(session_id), told)
    click.echo()
