"""How fast a full inbox is settled, session records and all, against stock `rq worker` with one job an event.

Both have everything imported before they fork a child, the baseline for every job, and do the same work in the same
tables. The baseline gets fewer events, and its time is taken from the first to the last one.
"""

import asyncio
from collections.abc import Callable, Iterable
from datetime import UTC, datetime

from redis import Redis
from rich.progress import Progress
from rq import Queue
from sqlalchemy import func, select

from ingest.config.settings import Settings
from ingest.inbox.inbox import Inbox
from ingest.inbox.schema import FILE_NAME
from ingest.relay.relay import Relay
from ingest.wire.envelope import Envelope, Kind
from ingest.wire.signature import Match
from tests.bench.baselines import DATABASE_VARIABLE, STORE_ONE, USUAL_QUEUE
from tests.bench.databases import harness_on, kinds_on
from tests.bench.harness import Harness, Process, resident_mib, wait_until
from tests.bench.http_load import bodies
from tests.bench.pipeline import settled_in
from tests.bench.report import Column, Report, Row, add_ratios
from workers.ledger.database.engine import create_ledger_engine, read_only
from workers.ledger.database.migrate import migrate
from workers.ledger.tables.core_tables import deliveries

COMMIT_SIZE = 500
PATIENCE_S = 300.0
POLL_S = 0.2

COLUMNS = (
    Column("events/s", "rate"),
    Column("to one job an event", "to_rival", 1),
    Column("RSS MiB", "rss_mib", spread=False),
)


def work(runs: int, events: int, rival_events: int, server: str | None, progress: Progress) -> Report:
    """Measure both in turn on each database, `runs` times."""
    kinds = kinds_on(server)
    ours = {kind: Row(f"webhooks work, {kind}") for kind in kinds}
    theirs = {kind: Row(f"rq worker, one job an event, {kind}") for kind in kinds}
    task = progress.add_task("work", total=2 * runs * len(kinds))
    for _ in range(runs):
        for kind in kinds:
            progress.update(task, description=f"work: {ours[kind].name}")
            with harness_on(kind, server) as harness:
                measure_ours(harness, events, ours[kind])
            progress.update(task, advance=1, description=f"work: {theirs[kind].name}")
            with harness_on(kind, server) as harness:
                _measure_baseline(harness, rival_events, theirs[kind])
            progress.advance(task)
    for kind in kinds:
        add_ratios([ours[kind], theirs[kind]], "rate", theirs[kind], "to_rival")
    missing = "" if server else "; no PostgreSQL here: install the extra `test`, or name one with --database"
    return Report(
        f"work: an inbox of {events:,} events to settled, {runs} runs side by side with {rival_events:,} jobs",
        COLUMNS,
        [row for kind in kinds for row in (ours[kind], theirs[kind])],
        f"medians (least–most){missing}",
    )


def fill(settings: Settings, events: Iterable[bytes]) -> None:
    """Insert events into the inbox as `serve` does, which must not run."""
    asyncio.run(_fill(settings, events))


async def _fill(settings: Settings, events: Iterable[bytes]) -> None:
    inbox = Inbox(settings.data_dir / FILE_NAME, settings)
    inbox.start()
    waiting = []
    for body in events:
        waiting.append(inbox.insert(Envelope(Kind.EVENTS, body, datetime.now(UTC), Match.CURRENT, None, {})))
        if len(waiting) == COMMIT_SIZE:
            await asyncio.gather(*waiting)
            waiting.clear()
    await asyncio.gather(*waiting)
    inbox.close()


def measure_ours(harness: Harness, events: int, row: Row) -> None:
    """Settle a full inbox with `webhooks work`."""
    harness.valkey(fsync="everysec")
    settings = harness.settings()
    fill(settings, bodies("work", events))
    worker = harness.work()
    relay = Relay(settings.data_dir / FILE_NAME, settings)
    ledger = create_ledger_engine(settings.database_url)
    started_at = datetime.now(UTC)
    relay.start()
    try:
        _wait(lambda: settled_in(ledger) >= events, worker)
        with read_only(ledger) as connection:
            ended_at = connection.execute(select(func.max(deliveries.c.settled_at))).scalar_one()
        row.add(rate=events / (ended_at - started_at).total_seconds(), rss_mib=resident_mib(worker.pid))
    finally:
        relay.stop()
        ledger.dispose()


def _wait(is_done: Callable[[], bool], worker: Process) -> None:
    wait_until(is_done, "all events are settled", worker, patience_s=PATIENCE_S, every_s=POLL_S)


def _measure_baseline(harness: Harness, events: int, row: Row) -> None:
    url = harness.valkey(fsync="everysec")
    settings = harness.settings()
    migrate(settings.database_url)
    with Redis.from_url(url) as connection:
        queue = Queue(USUAL_QUEUE, connection=connection)
        queue.enqueue_many([Queue.prepare_data(STORE_ONE, args=[body]) for body in bodies("rival", events)])
    worker = harness.python(
        *("-m", "rq.cli", "worker", "--quiet", "--url", url, "--config", "tests.bench.baselines", USUAL_QUEUE),
        name="rq",
        environment={DATABASE_VARIABLE: settings.database_url},
    )
    ledger = create_ledger_engine(settings.database_url)
    stored = select(func.count(), func.min(deliveries.c.stored_at), func.max(deliveries.c.stored_at))

    def stored_so_far() -> tuple[int, datetime, datetime]:
        with read_only(ledger) as connection:
            count, first_at, last_at = connection.execute(stored).one()
        return count, first_at, last_at

    try:
        _wait(lambda: stored_so_far()[0] >= events, worker)
        _, first_at, last_at = stored_so_far()
        row.add(rate=(events - 1) / (last_at - first_at).total_seconds(), rss_mib=resident_mib(worker.pid))
    finally:
        ledger.dispose()
