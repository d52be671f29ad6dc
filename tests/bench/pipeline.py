"""Every process type in one harness, and how far deliveries have come: waiting in the inbox, settled in the ledger."""

import http.client
import json
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Engine, func, select

from ingest.config.settings import Settings
from ingest.inbox.schema import FILE_NAME
from ingest.wire.signature import SIGNATURE_HEADER, sign
from tests.bench.harness import HOST, KEY, PATIENCE_S, BenchFailed, Harness, Process, load_result, wait_until
from tests.bench.http_load import LoadResult, LoadSpec
from workers.ledger.database.engine import create_ledger_engine, read_only
from workers.ledger.tables.core_tables import deliveries

PATH = "/plugsurfing/events"
SETTLED = select(func.count()).select_from(deliveries).where(deliveries.c.settled_at.is_not(None))
POLL_S = 0.25
SINGLE_POLL_S = 0.001
DRAIN_WITHIN_S = 300.0


@dataclass(frozen=True)
class Transit:
    """When a delivery was received, and when every outcome of it was in the ledger."""

    received_at: datetime
    settled_at: datetime


@dataclass(frozen=True)
class Pipeline:
    """The running processes, and read-only connections to the two stores."""

    harness: Harness
    serve: Process
    port: int
    worker: Process
    clock: Process
    ledger: Engine
    inbox: sqlite3.Connection

    @property
    def url(self) -> str:
        """Where events are posted."""
        return f"http://{HOST}:{self.port}{PATH}"

    def transits(self, since: datetime) -> list[Transit]:
        """List the transits of all deliveries received since then, in the order of arrival."""
        columns = deliveries.c.received_at, deliveries.c.settled_at
        query = select(*columns).where(deliveries.c.received_at >= since).order_by(deliveries.c.received_at)
        with read_only(self.ledger) as connection:
            return [Transit(*row) for row in connection.execute(query)]

    def load(self, spec: LoadSpec, watch: Callable[[], None] = lambda: None) -> LoadResult:
        """Run a load, calling `watch` every POLL_S seconds, until all that was answered with 200 is settled."""
        expected = settled_in(self.ledger)
        load = self.harness.load(spec)
        while load.poll() is None:
            for process in (self.serve, self.worker, self.clock):
                process.check()
            watch()
            time.sleep(POLL_S)
        result = load_result(load, spec)
        expected += result.kept
        wait_until(
            lambda: settled_in(self.ledger) >= expected and waiting_in(self.inbox) == 0,
            "everything is settled",
            self.serve,
            self.worker,
            patience_s=DRAIN_WITHIN_S,
            every_s=POLL_S,
        )
        return result

    def settle_one(self, body: bytes) -> float:
        """Post one event, poll the ledger closely, and return how many seconds passed until it was settled."""
        began = time.perf_counter()
        (response,) = post(self.port, [body])
        is_settled = deliveries.c.settled_at.is_not(None)
        query = select(deliveries.c.id).where(deliveries.c.id == response["id"], is_settled)
        # Through the driver itself: the poll must cost next to nothing, since the worker needs this processor too.
        text = str(query.compile(self.ledger, compile_kwargs={"literal_binds": True}))
        with closing(self.ledger.raw_connection()) as ledger, closing(ledger.cursor()) as cursor:
            while time.perf_counter() - began < PATIENCE_S:
                cursor.execute(text)
                found = cursor.fetchone()
                ledger.rollback()
                if found:
                    return time.perf_counter() - began
                time.sleep(SINGLE_POLL_S)
        raise BenchFailed(f"one event was not settled within {PATIENCE_S:.0f} s")


@contextmanager
def start_pipeline(harness: Harness) -> Iterator[Pipeline]:
    """Start every process type in the harness."""
    harness.valkey(fsync="everysec")
    worker = harness.work()
    clock = harness.webhooks("clock")
    serve, port = harness.serve()
    settings = harness.settings()
    ledger = create_ledger_engine(settings.database_url)
    try:
        with read_only_inbox(settings) as inbox:
            yield Pipeline(harness, serve, port, worker, clock, ledger, inbox)
    finally:
        ledger.dispose()


def post(port: int, bodies: Iterable[bytes]) -> Iterator[dict[str, str]]:
    """Post signed events over one connection, each when it is asked for, and yield the responses."""
    with closing(http.client.HTTPConnection(HOST, port, timeout=PATIENCE_S)) as connection:
        for body in bodies:
            headers = {SIGNATURE_HEADER: sign(body, KEY.encode()), "Content-Type": "application/json"}
            connection.request("POST", PATH, body, headers)
            yield json.load(connection.getresponse())


@contextmanager
def read_only_inbox(settings: Settings) -> Iterator[sqlite3.Connection]:
    """Open the inbox of a running `serve` without the right to write."""
    with closing(sqlite3.connect(f"file:{settings.data_dir / FILE_NAME}?mode=ro", uri=True)) as inbox:
        yield inbox


def waiting_in(inbox: sqlite3.Connection) -> int:
    """Count the deliveries on disk that are not settled."""
    (count,) = inbox.execute("SELECT count(*) FROM deliveries").fetchone()
    return int(count)


def settled_in(ledger: Engine) -> int:
    """Count the settled deliveries."""
    with read_only(ledger) as connection:
        return int(connection.execute(SETTLED).scalar_one())
