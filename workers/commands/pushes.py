"""`webhooks pushes`: what was sent, or is to be sent, to drivers; and sending again what was given up."""

from collections.abc import Sequence
from datetime import datetime

import click
from sqlalchemy import Connection

from ingest.wire.timestamps import utc_now
from workers.commands import options
from workers.commands.audit import audit_entry, record_act, subject_of
from workers.commands.errors import Failure
from workers.commands.listing import Page, paged, print_rows
from workers.commands.stores import open_ledger, read_only_ledger
from workers.dev.env_file import settings_with_dev_defaults
from workers.ledger import push_queries
from workers.ledger import pushes as ledger_pushes
from workers.ledger.audit_log import AuditAct
from workers.ledger.database.transaction import run_in_transaction
from workers.ledger.pushes import PushRow
from workers.ledger.states import PushState
from workers.lists.formatting import iso, printable
from workers.lists.push_list import PUSHES, RETRIABLE


@click.group(invoke_without_command=True)
@click.option("--state", type=click.Choice([state.value for state in PushState]), help="Only those in this state.")
@click.option("--session", "session_id", metavar="ID", help="The charging session that it is about.")
@options.user
@options.since
@options.until
@paged
@click.pass_context
def pushes(  # noqa: PLR0913 - the options are the interface
    context: click.Context,
    *,
    state: str | None,
    session_id: str | None,
    user_id: str | None,
    since: datetime | None,
    until: datetime | None,
    page: Page,
) -> None:
    """List what was sent, or is to be sent, to drivers, newest first; or send again what was given up."""
    if context.invoked_subcommand is not None:
        return
    wanted = PushState(state) if state else None
    with read_only_ledger(settings_with_dev_defaults()) as conn:
        print_rows(
            PUSHES,
            ledger_pushes.find(
                conn,
                session_id=session_id,
                person=user_id,
                state=wanted,
                since=since,
                until=until,
                limit=page.limit,
            ),
            page,
        )


@pushes.command()
@click.argument("ids", metavar="[ID]...", nargs=-1)
@options.since_option(help="Made then or later: ISO 8601, or 10m, 2h, 3d ago.")
@options.until
@click.option("--channel", metavar="NAME", help="Only those of this channel.")
@click.option("--state", type=click.Choice([state.value for state in RETRIABLE]), help="Default: dead.")
@click.option("--even-if-late", is_flag=True, help="Also those whose time has passed; they are tried for an hour.")
@click.option("--dry-run", is_flag=True, help="List what would be sent, and send nothing.")
@options.as_json
def retry(  # noqa: PLR0913 - the options are the interface
    *,
    ids: tuple[str, ...],
    since: datetime | None,
    until: datetime | None,
    channel: str | None,
    state: str | None,
    even_if_late: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Send again pushes that were given up, named by id (the beginning is enough) or found by filters.

    The clock sends them at once. One whose session is over by then, or that a newer one has replaced, is not sent.
    """
    filtered = any((since, until, channel, state))
    if bool(ids) is filtered:
        raise click.UsageError("Name the pushes: either by id, or with --since, --until, --channel or --state.")
    filters = {"since": iso(since), "until": iso(until), "channel": channel, "state": state}
    entry = audit_entry(AuditAct.RESENT, subject_of(ids, filters))
    states = (PushState(state),) if state else RETRIABLE if ids else (PushState.DEAD,)
    with open_ledger(settings_with_dev_defaults()) as engine:

        def find(conn: Connection) -> list[PushRow]:
            wanted = _resolve(conn, ids) if ids else None
            return push_queries.find_given_up(
                conn, ids=wanted, channel=channel, states=states, since=since, until=until
            )

        def send_again(conn: Connection) -> tuple[list[PushRow], list[PushRow]]:
            now = utc_now()
            found = find(conn)
            late = [push for push in found if push.expires_at and push.expires_at <= now and not even_if_late]
            chosen = [push for push in found if push not in late]
            if chosen and not dry_run:
                push_queries.retry(conn, [push.id for push in chosen], states, now)
                record_act(conn, entry.counting(len(chosen)))
            return chosen, late

        chosen, late = run_in_transaction(engine, send_again)
    if as_json or dry_run:
        print_rows(PUSHES, chosen, Page(as_json=as_json))
    if not as_json:
        _report(len(chosen), len(late), len(set(ids)) - len(chosen) - len(late) if ids else 0, dry_run=dry_run)


def _resolve(conn: Connection, prefixes: Sequence[str]) -> list[str]:
    found = {prefix: push_queries.resolve_id(conn, prefix) for prefix in prefixes}
    unknown = ", ".join(printable(prefix) for prefix, full in found.items() if full is None)
    if unknown:
        raise Failure(f"The ledger knows no push, or more than one, with an id that begins with: {unknown}.")
    return [full for full in found.values() if full is not None]


def _report(chosen: int, late: int, others: int, *, dry_run: bool) -> None:
    click.echo(f"Pushes that {'would be' if dry_run else 'are'} sent again: {chosen}.")
    if late:
        click.echo(f"Not sent, as their time has passed: {late}. With --even-if-late they are.")
    if others > 0:
        click.echo(f"Not sent again, as they were not given up: {others}.")
