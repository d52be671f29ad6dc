"""`webhooks audit`: who did what, and when; and how commands record what they do."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import click
from sqlalchemy import Connection

from ingest.config.settings import Settings
from workers.commands import options
from workers.commands.errors import Failure, error_text, is_expected
from workers.commands.listing import Page, paged, print_rows
from workers.commands.stores import open_ledger, read_only_ledger
from workers.dev.env_file import settings_with_dev_defaults
from workers.ledger import audit_log
from workers.ledger.audit_log import Actor, AuditAct, AuditEntry
from workers.lists.audit_list import AUDIT
from workers.lists.formatting import short_id

FIRST_IDS = 10


@click.command()
@click.option("--actor", metavar="NAME", help="Only what this person did.")
@click.option("--act", type=click.Choice([act.value for act in AuditAct]), help="Only acts of this kind.")
@options.since_option(help="Done then or later: 10m, 2h or 3d ago, today, yesterday, 18:00, ISO 8601.")
@options.until_option(help="Done before then.")
@paged
def audit(
    *,
    actor: str | None,
    act: str | None,
    since: datetime | None,
    until: datetime | None,
    page: Page,
) -> None:
    """List who did what in the dashboard and with commands, newest first.

    Recorded are: who looked at a body or at user ids, ran handlers again, sent pushes again, resolved alerts, let in
    what was in quarantine, and logged in or failed to. Of a command it is the operating system's user.
    """
    wanted = AuditAct(act) if act else None
    with read_only_ledger(settings_with_dev_defaults()) as conn:
        found = audit_log.find(conn, actor=actor, act=wanted, since=since, until=until, limit=page.limit)
    print_rows(AUDIT, found, page)


def audit_entry(act: AuditAct, subject: str | None = None, count: int = 1) -> AuditEntry:
    """Build the entry for an act of this command's user."""
    return AuditEntry(act, Actor.of_command(), subject, count)


def subject_of(ids: Sequence[str], filters: Mapping[str, str | None]) -> str:
    """Name what an act was done to: the first of the ids that were given, or the filters."""
    if ids:
        first = ", ".join(short_id(each) for each in ids[:FIRST_IDS])
        return first if len(ids) <= FIRST_IDS else f"{first}, …"
    return " ".join(f"{name}={value}" for name, value in filters.items() if value is not None)


def record_act(ledger: Connection, entry: AuditEntry) -> None:
    """Record what the command does, in the transaction that does it."""
    audit_log.record(ledger, entry, datetime.now(UTC))


def record_aside(settings: Settings, entry: AuditEntry) -> None:
    """Record what the command did elsewhere than in the ledger, or only read.

    Where the ledger cannot be written, a note on stderr says so: who can run commands can read the stores anyway.
    """
    try:
        with open_ledger(settings) as engine, engine.begin() as ledger:
            record_act(ledger, entry)
    except Failure as error:
        _warn(error.format_message())
    except Exception as error:
        if not is_expected(error):
            raise
        _warn(error_text(error))


def _warn(reason: str) -> None:
    click.echo(f"This is not in the audit log: {reason}", err=True)
