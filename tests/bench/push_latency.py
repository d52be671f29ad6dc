"""How soon a driver is warned of a fee while session events by the thousand wait before the warning."""

import time
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from statistics import median

from rich.progress import Progress
from sqlalchemy import Engine, func, select

from ingest.simulator.scenarios import FEE_INCURRING, STARTED, Participants, make_event
from tests.bench.databases import harness_on, kinds_on
from tests.bench.harness import Harness, wait_until
from tests.bench.http_load import bodies
from tests.bench.pipeline import post, read_only_inbox, settled_in, waiting_in
from tests.bench.report import Column, Report, Row, p99
from tests.bench.work import fill
from workers.ledger.database.engine import create_ledger_engine, read_only
from workers.ledger.tables.core_tables import deliveries, pushes

WARNINGS_PER_SECOND = 20.0
PATIENCE_S = 300.0

COLUMNS = (
    Column("ms to the push, p50", "p50_ms"),
    Column("p99", "p99_ms"),
    Column("most", "most_ms"),
    Column("waiting at the first", "waiting_first"),
    Column("at the last", "waiting_last"),
)


def warn(runs: int, events: int, warnings: int, server: str | None, progress: Progress) -> Report:
    """Measure on each database, `runs` times."""
    rows = {kind: Row(kind) for kind in kinds_on(server)}
    task = progress.add_task("warn", total=runs * len(rows))
    for _ in range(runs):
        for kind, row in rows.items():
            progress.update(task, description=f"warn: {kind}")
            with harness_on(kind, server) as harness:
                _measure(harness, events, warnings, row)
            progress.advance(task)
    return Report(
        f"warn: {warnings:,} fee warnings of known sessions, behind {events:,} session events that wait, {runs} runs",
        COLUMNS,
        list(rows.values()),
        "medians (least–most) of each run's figures; from receipt to the push on the channel `log`",
    )


def _measure(harness: Harness, events: int, warnings: int, row: Row) -> None:
    harness.valkey(fsync="everysec")
    settings = harness.settings()
    participants = [Participants(f"warned-{number}", f"driver-{number}") for number in range(warnings)]
    engine = create_ledger_engine(settings.database_url)
    worker, clock = harness.work(), harness.webhooks("clock")
    fill(settings, _events(STARTED, participants))
    serve, port = harness.serve()
    wait_until(lambda: settled_in(engine) >= warnings, "the sessions are known", worker, serve)
    for process in (serve, worker):
        process.stop()
    fill(settings, bodies("backlog", events))
    worker = harness.work()
    serve, port = harness.serve()
    with read_only_inbox(settings) as inbox:
        first = waiting_in(inbox)
        for _ in post(port, _events(FEE_INCURRING, participants)):
            time.sleep(1 / WARNINGS_PER_SECOND)
        last = waiting_in(inbox)
    wait_until(lambda: _sent(engine) >= warnings, "all warnings are sent", worker, serve, clock, patience_s=PATIENCE_S)
    query = select(deliveries.c.received_at, pushes.c.sent_at).join_from(
        pushes, deliveries, pushes.c.delivery_id == deliveries.c.id
    )
    with read_only(engine) as ledger:
        took = [1000 * (sent_at - received_at).total_seconds() for received_at, sent_at in ledger.execute(query)]
    engine.dispose()
    row.add(p50_ms=median(took), p99_ms=p99(took), most_ms=max(took), waiting_first=first, waiting_last=last)
    if not last:
        row.remark({"backlog gone before the last warning": 1})


def _events(name: str, participants: Iterable[Participants]) -> Iterator[bytes]:
    """Yield an event of each session, of a second before it is asked for."""
    for each in participants:
        yield make_event(name, each, datetime.now(UTC) - timedelta(seconds=1)).body


def _sent(engine: Engine) -> int:
    with read_only(engine) as ledger:
        return ledger.execute(select(func.count(pushes.c.sent_at))).scalar_one()
