"""`webhooks retain`: delete what is older than the settings allow, or count it."""

from collections.abc import Mapping
from datetime import UTC, datetime

import click
from sqlalchemy import Engine

from workers.commands import options
from workers.commands.audit import audit_entry, record_act
from workers.commands.listing import Page, print_rows
from workers.commands.output import json_line, key_values
from workers.commands.stores import open_ledger
from workers.dev.env_file import settings_with_dev_defaults
from workers.ledger.audit_log import AuditAct
from workers.ledger.database.engine import read_only
from workers.ledger.database.migrate_plugins import require_plugin_tables
from workers.lists.listing import Listing, attributes
from workers.plugins import load_plugins
from workers.privacy.retention import RetentionPlan, RetentionTask, retention_plans
from workers.privacy.vacuum import vacuum_ledger


@click.command()
@click.option("--dry-run", is_flag=True, help="Count what would be deleted, and delete nothing.")
@click.option("--vacuum", is_flag=True, help="Then rewrite the database: everything waits for that, for minutes.")
@options.as_json
def retain(*, dry_run: bool, vacuum: bool, as_json: bool) -> None:
    """Delete what is older than the RETAIN settings allow. The clock does the same, a little every minute.

    Tables of plugins say themselves how long their rows are kept.

    The id, times and outcomes of a delivery stay when its body goes, so that its duplicates are recognized.
    """
    if dry_run and vacuum:
        raise click.UsageError("Choose --dry-run or --vacuum.")
    settings = settings_with_dev_defaults()
    plugins = load_plugins(settings)
    with open_ledger(settings) as engine:
        require_plugin_tables(engine, plugins.tables)
        if dry_run:
            with read_only(engine) as ledger:
                plans = retention_plans(ledger, settings, datetime.now(UTC), plugins.own_tables)
            print_rows(PLANS, plans, Page(as_json=as_json))
            return
        deleted = RetentionTask(engine, settings, plugins.own_tables).delete()
        _record(engine, deleted)
        if vacuum:
            vacuum_ledger(engine)
    if as_json:
        json_line(deleted)
    elif deleted:
        key_values(list(deleted.items()))
    else:
        click.echo("Nothing is old enough.")


def _record(engine: Engine, deleted: Mapping[str, int]) -> None:
    if deleted:
        with engine.begin() as ledger:
            record_act(ledger, audit_entry(AuditAct.DELETED, ", ".join(deleted), sum(deleted.values())))


PLANS = Listing[RetentionPlan](
    fields=attributes("kind", "setting", "older_than", "rows"),
    columns={"kind": "kind", "setting": "setting", "older than": "older_than", "rows": "rows"},
)
