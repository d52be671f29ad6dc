"""`webhooks replay`: run handlers again on deliveries that came before."""

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace as changed
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import islice
from pathlib import Path

import click
from redis.exceptions import RedisError
from sqlalchemy import Connection, Engine

from ingest.config.settings import Settings
from ingest.errors import SettingsError
from workers.commands import options
from workers.commands.audit import audit_entry, record_act, subject_of
from workers.commands.errors import Failure, UsageFailure, error_text
from workers.commands.listing import Page, print_rows
from workers.commands.stores import open_ledger
from workers.dev.env_file import settings_with_dev_defaults
from workers.execution.dead_letters import withdraw
from workers.execution.replay import ReplayPlan, apply, plan_replays
from workers.installation import open_queues
from workers.ledger import deliveries
from workers.ledger.audit_log import AuditAct, AuditEntry
from workers.ledger.database.engine import chunks, read_only
from workers.ledger.database.transaction import run_in_transaction
from workers.ledger.deliveries import DeliveryFilters
from workers.ledger.states import DeliveryState, Outcome
from workers.lists.formatting import human_duration, iso, printable, short_id
from workers.lists.listing import Listing, attributes
from workers.plugins import Plugins, load_plugins
from workers.privacy.archive import read_archive, restore, verify_archive

CHUNK = 200
"""Deliveries in one transaction, which workers wait for."""
REDIS_TIMEOUT = 2
"""Seconds; withdrawing dead letters is not worth a longer wait."""
ARCHIVE = click.Path(path_type=Path, dir_okay=False, exists=True)
STATES = [state.value for state in DeliveryState if state not in {DeliveryState.KEPT, DeliveryState.QUEUED}]


@click.command()
@click.argument("ids", metavar="[ID]...", nargs=-1)
@options.since
@options.until
@click.option("--event", metavar="NAME", help="The event's name as it was sent.")
@click.option("--state", type=click.Choice(STATES), help="Only those in this state; dead: with at least one dead run.")
@click.option("--handler", metavar="NAME", help="Only this handler, new ones included.")
@click.option("--from", "file", type=ARCHIVE, metavar="FILE", help="All of an archive of `webhooks archive`.")
@click.option("--dry-run", is_flag=True, help="List what would run, and run nothing.")
@click.option("--rate", type=click.FloatRange(min=0, min_open=True), help="Deliveries a second. Default: all at once.")
@options.as_json
def replay(  # noqa: PLR0913  the options are the interface
    *,
    ids: tuple[str, ...],
    since: datetime | None,
    until: datetime | None,
    event: str | None,
    state: str | None,
    handler: str | None,
    file: Path | None,
    dry_run: bool,
    rate: float | None,
    as_json: bool,
) -> None:
    """Run handlers again on deliveries, named by id (the beginning is enough) or found by filters.

    Where runs are dead, only these run again, once each. Any other delivery is handled as if it came today, by the
    handlers of its event now: a new handler sees old events, and what was unreadable is read again. The clock enqueues
    the runs. A push that was sent is not sent again; one that was given up is, if its handler still makes it.
    """
    filtered = any((since, until, event, state))
    if file is not None and (ids or filtered or dry_run):
        raise click.UsageError("With --from go --handler and --rate only.")
    if ids and filtered:
        raise click.UsageError("Name deliveries by id or by filters, not both; only --handler goes with ids.")
    if not (ids or filtered or handler or file):
        raise click.UsageError("Name the deliveries: by id, or with --since, --until, --event, --state or --handler.")
    settings = settings_with_dev_defaults()
    plugins = load_plugins(settings)
    if handler is not None and handler not in {each.name for each in plugins.subscriptions}:
        raise UsageFailure(f"No plugin defines a handler '{printable(handler)}'; see `webhooks handlers`.")
    filters = None if ids or file else DeliveryFilters(event=event, since=since, until=until)
    if filters and state == DeliveryState.DEAD:  # a dead run, which a delivery may have while other runs are open
        filters = changed(filters, outcome=Outcome.DEAD, handler=handler)
    elif filters and state:
        filters = changed(filters, state=DeliveryState(state))
    with open_ledger(settings) as engine:
        if file is not None:
            chosen = _restore(engine, file)
        else:
            with read_only(engine) as conn:
                chosen = deliveries.find_ids(conn, filters) if filters else _resolve(conn, ids)
        if dry_run:
            print_rows(PLANS, _preview(engine, chosen, plugins, handler), Page(as_json=as_json))
            return
        decide = partial(plan_replays, plugins=plugins, handler=handler, filters=filters)
        wanted = {"since": iso(since), "until": iso(until), "event": event, "state": state, "handler": handler}
        subject = subject_of(ids, wanted) if file is None else f"from {file.name}"
        entry = audit_entry(AuditAct.REPLAYED, subject, 0)
        job_ids = _replay(engine, chosen, decide, rate, entry, as_json=as_json)
        _withdraw(settings, engine, job_ids)


def _resolve(conn: Connection, ids: Sequence[str]) -> list[str]:
    found = {prefix: deliveries.resolve_id(conn, prefix) for prefix in ids}
    unknown = ", ".join(printable(prefix) for prefix, full in found.items() if full is None)
    if unknown:
        raise Failure(f"The ledger knows no delivery, or more than one, with an id that begins with: {unknown}.")
    return list(dict.fromkeys(full for full in found.values() if full is not None))


def _restore(engine: Engine, file: Path) -> list[str]:
    """Restore the deliveries of an archive, and return their ids."""
    verify_archive(file)
    archived, ids = read_archive(file), list[str]()
    while some := list(islice(archived, CHUNK)):
        ids += run_in_transaction(engine, partial(restore, archived=some))
    return ids


def _preview(engine: Engine, ids: Sequence[str], plugins: Plugins, handler: str | None) -> Iterator[ReplayPlan]:
    for some in chunks(ids, CHUNK):
        with read_only(engine) as conn:
            yield from plan_replays(conn, some, plugins, handler)


def _replay(  # noqa: PLR0913 - all of it is one call's
    engine: Engine,
    ids: Sequence[str],
    decide: Callable[..., list[ReplayPlan]],
    rate: float | None,
    entry: AuditEntry,
    *,
    as_json: bool,
) -> list[str]:
    """Replay chunk by chunk, report it, and return the ids of the jobs that the runs replace."""
    began_at = datetime.now(UTC)
    tally: Counter[str] = Counter()
    job_ids: list[str] = []
    # With a rate, the deliveries of one second are due together.
    step = CHUNK if rate is None else min(CHUNK, max(1, int(rate)))
    with click.progressbar(length=len(ids), label="Replaying", file=sys.stderr, hidden=len(ids) <= CHUNK) as bar:
        for number, some in enumerate(chunks(ids, step)):
            due_at = began_at + timedelta(seconds=number * step / rate if rate else 0)
            entry = entry.counting(tally["deliveries"])
            decided = run_in_transaction(engine, partial(_replay_chunk, some, decide, due_at, entry))
            if as_json:
                print_rows(PLANS, decided, Page(as_json=True))
            tally.update(_counts(decided), changed=len(some) - len(decided))
            job_ids += [job_id for each in decided for job_id in each.job_ids]
            bar.update(len(some))
    if not as_json:
        _report(tally, rate)
    return job_ids


def _replay_chunk(
    ids: Sequence[str],
    decide: Callable[..., list[ReplayPlan]],
    due_at: datetime,
    entry: AuditEntry,
    conn: Connection,
) -> list[ReplayPlan]:
    """Replay some deliveries, and record it: the entry has the number of those before."""
    decided = decide(conn, ids)
    apply(conn, decided, due_at)
    count = sum(bool(each.handlers) for each in decided)
    if count:
        record_act(conn, entry.counting(entry.count + count))
    return decided


def _withdraw(settings: Settings, engine: Engine, job_ids: Sequence[str]) -> None:
    """Remove the dead letters of what runs again from the dashboard; a failure here does not undo the replay."""
    if settings.redis_url is None or not job_ids:
        return
    try:
        with open_queues(settings, engine, timeout=REDIS_TIMEOUT) as connection:
            withdraw(connection, job_ids)
    except (RedisError, OSError, SettingsError) as error:
        click.echo(f"{error_text(error)} The dashboard may still show these as failed jobs.", err=True)


def _counts(decided: Sequence[ReplayPlan]) -> Counter[str]:
    return Counter(
        deliveries=sum(bool(each.handlers) for each in decided),
        again=sum(len(each.again) for each in decided),
        first=sum(len(each.first) for each in decided),
        unreadable=sum(not each.is_understood and each.row.body_deleted_at is None for each in decided),
        deleted=sum(each.row.body_deleted_at is not None for each in decided),
        unloaded=sum(len(each.unloaded) for each in decided),
        idle=sum(each.is_understood and not each.handlers and not each.unloaded for each in decided),
    )


def _report(tally: Counter[str], rate: float | None) -> None:
    """Print what will run, and what will not and why."""
    click.echo(
        f"Deliveries: {tally['deliveries']}. Runs: {tally['again']} once more, {tally['first']} for the first time."
    )
    if rate and tally["deliveries"]:
        click.echo(f"They come due over {human_duration(timedelta(seconds=tally['deliveries'] / rate))}.")
    for count, words in (
        (tally["unreadable"], "still unreadable"),
        (tally["deleted"], "not replayed: their bodies are deleted"),
        (tally["changed"], "not replayed: they have changed since they were found"),
        (tally["idle"], "with nothing to run: no handler takes it, or its runs are not finished"),
        (tally["unloaded"], "dead runs not replayed: no plugin defines their handler any more"),
    ):
        if count:
            click.echo(f"{count} {words}.")


def _would_run(plan: ReplayPlan) -> str:
    words = [*plan.again, *(f"{name} (first)" for name in plan.first)]
    if plan.row.body_deleted_at is not None:
        return "nothing: its body is deleted"
    return ", ".join(words) or ("nothing" if plan.is_understood else "nothing: unreadable")


PLANS = Listing[ReplayPlan](
    fields={
        **attributes(id="row.id", event="row.event", session_id="row.session_id", received_at="row.received_at"),
        **attributes("again"),
        "first": lambda plan: list(plan.first),
        "unreadable": lambda plan: not plan.is_understood and plan.row.body_deleted_at is None,
    },
    columns={
        "received": "received_at",
        "id": lambda plan: short_id(plan.row.id),
        "event": lambda plan: plan.row.event or plan.row.kind,
        "session": "session_id",
        "would run": _would_run,
    },
)
