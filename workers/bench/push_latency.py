"""How soon a driver is warned of a fee while session events by the thousand wait before the warning."""

import http.client
import json
import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from statistics import median

from rich.progress import Progress
from sqlalchemy import Engine, func, select

from ingest.simulator.scenarios import FEE_INCURRING, STARTED, Participants, telling
from ingest.wire.signature import SIGNATURE_HEADER, sign
from workers.bench.databases import POSTGRESQL, SQLITE
from workers.bench.depths import opened_inbox, settled_in, waiting_in
from workers.bench.harness import HOST, KEY, PATIENCE_S, Harness, wait_until
from workers.bench.http_load import bodies
from workers.bench.pipeline import PATH
from workers.bench.report import Column, Report, Row, p99
from workers.bench.work import fill, stage_on
from workers.ledger.database.engine import create_ledger_engine, read_only
from workers.ledger.tables.core import deliveries, pushes

WARNINGS_PER_SECOND = 20.0
MANY_S = 300.0

COLUMNS = (
    Column("ms to the push, p50", "p50_ms"),
    Column("p99", "p99_ms"),
    Column("most", "most_ms"),
    Column("waiting at the first", "waiting_first"),
    Column("at the last", "waiting_last"),
)


def warn(runs: int, events: int, warnings: int, server: str | None, progress: Progress) -> Report:
    """Measure on each database, `runs` times."""
    kinds = [SQLITE, *([POSTGRESQL] if server else [])]
    rows = {kind: Row(kind) for kind in kinds}
    task = progress.add_task("warn", total=runs * len(kinds))
    for _ in range(runs):
        for kind in kinds:
            progress.update(task, description=f"warn: {kind}")
            with stage_on(kind, server) as stage:
                _measure(stage, events, warnings, rows[kind])
            progress.advance(task)
    return Report(
        f"warn: {warnings:,} fee warnings of known sessions, behind {events:,} session events that wait, {runs} runs",
        COLUMNS,
        list(rows.values()),
        "medians (least–most) of each run's figures; from receipt at the door to the push on the channel `log`",
    )


def _measure(stage: Harness, events: int, warnings: int, row: Row) -> None:
    stage.valkey(fsync="everysec")
    settings = stage.settings()
    casts = [Participants(f"warned-{number}", f"driver-{number}") for number in range(warnings)]
    engine = create_ledger_engine(settings.database_url)
    worker, clock = stage.work(), stage.webhooks("clock")
    fill(settings, _told(STARTED, casts))
    serve, port = stage.serve()
    wait_until(lambda: settled_in(engine) >= warnings, "the sessions are known", worker, serve)
    for process in (serve, worker):
        process.stop()
    fill(settings, bodies("backlog", events))
    worker = stage.work()
    serve, port = stage.serve()
    with opened_inbox(settings) as inbox:
        first = waiting_in(inbox)
        _tell(port, _told(FEE_INCURRING, casts))
        last = waiting_in(inbox)
    wait_until(lambda: _sent(engine) >= warnings, "all warnings are sent", worker, serve, clock, patience_s=MANY_S)
    query = select(deliveries.c.received_at, pushes.c.sent_at).join_from(
        pushes, deliveries, pushes.c.delivery_id == deliveries.c.id
    )
    with read_only(engine) as ledger:
        took = [1000 * (sent_at - received_at).total_seconds() for received_at, sent_at in ledger.execute(query)]
    engine.dispose()
    row.add(p50_ms=median(took), p99_ms=p99(took), most_ms=max(took), waiting_first=first, waiting_last=last)
    if not last:
        row.remark({"backlog gone before the last warning": 1})


def _told(name: str, casts: Iterable[Participants]) -> Iterator[bytes]:
    for cast in casts:
        yield telling(name, cast, datetime.now(UTC) - timedelta(seconds=1)).body


def _sent(engine: Engine) -> int:
    with read_only(engine) as ledger:
        return ledger.execute(select(func.count(pushes.c.sent_at))).scalar_one()


def _tell(port: int, told: Iterable[bytes]) -> None:
    """Send the warnings one by one at their rate, each said when it is sent."""
    with closing(http.client.HTTPConnection(HOST, port, timeout=PATIENCE_S)) as connection:
        for body in told:
            headers = {SIGNATURE_HEADER: sign(body, KEY.encode()), "Content-Type": "application/json"}
            connection.request("POST", PATH, body, headers)
            json.load(connection.getresponse())
            time.sleep(1 / WARNINGS_PER_SECOND)
