"""`webhooks replay`: run handlers again on deliveries that came before."""

import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace as changed
from datetime import UTC, datetime, timedelta
from functools import partial

import click
from redis.exceptions import RedisError
from sqlalchemy import Connection, Engine

from ingest.config.settings import Settings
from ingest.errors import SettingsError
from ingest.queue.queues import connect_redis
from workers.commands import options
from workers.commands.errors import Failure, UsageFailure, error_text
from workers.commands.output import Cell, human_duration, iso, json_line, printable, short_id, table
from workers.commands.stores import open_ledger
from workers.dev.env_file import settings_with_dev_defaults
from workers.execution.dead_letters import withdraw
from workers.execution.replay import ReplayPlan, apply, plan_replays
from workers.ledger import deliveries
from workers.ledger.database.engine import chunks, read_only
from workers.ledger.database.transaction import run_in_transaction
from workers.ledger.deliveries import DeliveryFilters
from workers.ledger.states import DeliveryState, Outcome
from workers.plugins import Plugins, load_plugins

AT_ONCE = 200
"""Deliveries in one transaction: short enough not to keep the workers waiting."""
REDIS_PATIENCE = 2
"""Seconds: what is wanted of Redis here is not worth more."""
STATES = [state.value for state in DeliveryState if state not in {DeliveryState.KEPT, DeliveryState.QUEUED}]


@click.command()
@click.argument("ids", metavar="[ID]...", nargs=-1)
@options.since
@options.until
@click.option("--event", metavar="NAME", help="The event's name as it was sent.")
@click.option("--state", type=click.Choice(STATES), help="How they stand; dead: one run at least is dead.")
@click.option("--handler", metavar="NAME", help="Only this handler, new ones included.")
@click.option("--dry-run", is_flag=True, help="Only list what would run.")
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
    dry_run: bool,
    rate: float | None,
    as_json: bool,
) -> None:
    """Run handlers again on deliveries, named by id (the beginning is enough) or found by filters.

    Where handlers are dead, only these run, once more each. Any other delivery is handled as if it came today, by what
    takes its event now: so a new handler sees old events, and what was unreadable is read again. The clock
    puts the runs on their queues, and a push that was sent is not sent again.
    """
    filtered = any((since, until, event, state))
    if ids and filtered:
        raise click.UsageError("Name deliveries by id or by filters, not both; only --handler goes with ids.")
    if not (ids or filtered or handler):
        raise click.UsageError("Name the deliveries: by id, or with --since, --until, --event, --state or --handler.")
    settings = settings_with_dev_defaults()
    plugins = load_plugins(settings)
    if handler is not None and handler not in {each.name for each in plugins.subscriptions}:
        raise UsageFailure(f"No plugin defines a handler '{printable(handler)}'; see `webhooks handlers`.")
    filters = None if ids else with_state(DeliveryFilters(event=event, since=since, until=until), state, handler)
    with open_ledger(settings) as engine:
        with read_only(engine) as conn:
            chosen = deliveries.find_ids(conn, filters) if filters else _resolved(conn, ids)
        if dry_run:
            _preview(engine, chosen, plugins, handler, as_json=as_json)
            return
        decide = partial(plan_replays, plugins=plugins, handler=handler, filters=filters)
        job_ids = _replayed(engine, chosen, decide, rate, as_json=as_json)
    _take_back(settings, job_ids)


def with_state(filters: DeliveryFilters, state: str | None, handler: str | None) -> DeliveryFilters:
    """Add the state to what is looked for; dead means a dead run, which there may be while others are still open."""
    if state == DeliveryState.DEAD:
        return changed(filters, outcome=Outcome.DEAD, handler=handler)
    return changed(filters, state=DeliveryState(state)) if state else filters


def _resolved(conn: Connection, ids: Sequence[str]) -> list[str]:
    found = {beginning: deliveries.resolve_id(conn, beginning) for beginning in ids}
    unknown = ", ".join(printable(beginning) for beginning, full in found.items() if full is None)
    if unknown:
        raise Failure(f"The ledger knows no delivery, or more than one, with an id that begins with: {unknown}.")
    return list(dict.fromkeys(full for full in found.values() if full is not None))


def _preview(engine: Engine, ids: Sequence[str], plugins: Plugins, handler: str | None, *, as_json: bool) -> None:
    shown: list[ReplayPlan] = []
    for some in chunks(ids, AT_ONCE):
        with read_only(engine) as conn:
            decided = plan_replays(conn, some, plugins, handler)
        if as_json:
            _write_json(decided)
        else:
            shown += decided
    if not as_json:
        table(("received", "id", "event", "session", "would run"), [_cells(each) for each in shown])


def _replayed(
    engine: Engine, ids: Sequence[str], decide: Callable[..., list[ReplayPlan]], rate: float | None, *, as_json: bool
) -> list[str]:
    """Replay in steps, report it, and return the jobs that stood for the runs until now."""
    began_at = datetime.now(UTC)
    tally: Counter[str] = Counter()
    job_ids: list[str] = []
    # With a rate, those of one step are due together: a step is what one second may bring.
    step = AT_ONCE if rate is None else min(AT_ONCE, max(1, int(rate)))
    with click.progressbar(length=len(ids), label="Replaying", file=sys.stderr, hidden=len(ids) <= AT_ONCE) as bar:
        for number, some in enumerate(chunks(ids, step)):
            due_at = began_at + timedelta(seconds=number * step / rate if rate else 0)
            decided = run_in_transaction(engine, partial(_replay_chunk, some, decide, due_at))
            if as_json:
                _write_json(decided)
            tally.update(_counts(decided), changed=len(some) - len(decided))
            job_ids += [job_id for each in decided for job_id in each.job_ids]
            bar.update(len(some))
    if not as_json:
        _report(tally, rate)
    return job_ids


def _replay_chunk(
    ids: Sequence[str], decide: Callable[..., list[ReplayPlan]], due_at: datetime, conn: Connection
) -> list[ReplayPlan]:
    decided = decide(conn, ids)
    apply(conn, decided, due_at)
    return decided


def _take_back(settings: Settings, job_ids: Sequence[str]) -> None:
    """Have the dashboard show no dead letter for what runs again; the replay stands without it."""
    if settings.redis_url is None or not job_ids:
        return
    try:
        with connect_redis(settings.redis_url, timeout=REDIS_PATIENCE) as connection:
            withdraw(connection, job_ids)
    except (RedisError, OSError, SettingsError) as error:
        click.echo(f"{error_text(error)} The dashboard may go on to show these as failed jobs.", err=True)


def _counts(decided: Sequence[ReplayPlan]) -> Counter[str]:
    return Counter(
        deliveries=sum(bool(each.handlers) for each in decided),
        again=sum(len(each.again) for each in decided),
        first=sum(len(each.first) for each in decided),
        unreadable=sum(not each.is_understood for each in decided),
        unloaded=sum(len(each.unloaded) for each in decided),
        idle=sum(each.is_understood and not each.handlers and not each.unloaded for each in decided),
    )


def _report(tally: Counter[str], rate: float | None) -> None:
    """Say what will run, and what will not and why."""
    click.echo(
        f"Deliveries: {tally['deliveries']}. Runs: {tally['again']} once more, {tally['first']} for the first time."
    )
    if rate and tally["deliveries"]:
        click.echo(f"They come due over {human_duration(timedelta(seconds=tally['deliveries'] / rate))}.")
    for count, words in (
        (tally["unreadable"], "still unreadable"),
        (tally["changed"], "left alone: they have changed since they were looked for"),
        (tally["idle"], "with nothing to run: no handler takes it, or it is still at work"),
        (tally["unloaded"], "dead runs left, as no plugin defines their handler any more"),
    ):
        if count:
            click.echo(f"{count} {words}.")


def _write_json(decided: Sequence[ReplayPlan]) -> None:
    for each in decided:
        json_line(
            {
                "id": each.row.id,
                "event": each.row.event,
                "session_id": each.row.session_id,
                "received_at": iso(each.row.received_at),
                "again": each.again,
                "first": [name for name, _ in each.first],
                "unreadable": not each.is_understood,
            }
        )


def _cells(each: ReplayPlan) -> Sequence[Cell]:
    words = [*each.again, *(f"{name} (first)" for name, _ in each.first)]
    what = ", ".join(words) or ("nothing" if each.is_understood else "nothing: unreadable")
    return each.row.received_at, short_id(each.row.id), each.row.event or each.row.kind, each.row.session_id, what
