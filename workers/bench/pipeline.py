"""The whole path on one stage, as `through` measures it: door, relay, Valkey, a worker and the clock."""

import http.client
import json
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Engine, select

from ingest.wire.signature import SIGNATURE_HEADER, sign
from workers.bench.depths import opened_inbox, settled_in, waiting_in
from workers.bench.harness import HOST, KEY, PATIENCE_S, Harness, seen, wait_until
from workers.bench.http_load import LoadResult, LoadSpec
from workers.bench.process import BenchFailed, Process
from workers.ledger.database.engine import create_ledger_engine, read_only
from workers.ledger.tables.core import deliveries

PATH = "/plugsurfing/events"
LOOK_EVERY_S = 0.25
LOOK_CLOSELY_S = 0.001
DRAIN_WITHIN_S = 300.0


@dataclass(frozen=True)
class Transit:
    """One delivery's way: when the door had it, and when every outcome was in the ledger."""

    received_at: datetime
    settled_at: datetime


@dataclass(frozen=True)
class Pipeline:
    """The running processes, and the two stores that tell how far things have come."""

    stage: Harness
    serve: Process
    port: int
    worker: Process
    clock: Process
    ledger: Engine
    inbox: sqlite3.Connection

    @property
    def url(self) -> str:
        """Where events go."""
        return f"http://{HOST}:{self.port}{PATH}"

    def passages(self, since: datetime) -> list[Transit]:
        """Read the ways of everything that came since then, in the order of arrival."""
        columns = deliveries.c.received_at, deliveries.c.settled_at
        query = select(*columns).where(deliveries.c.received_at >= since).order_by(deliveries.c.received_at)
        with read_only(self.ledger) as connection:
            return [Transit(*row) for row in connection.execute(query)]

    def load(self, order: LoadSpec, watch: Callable[[], None]) -> LoadResult:
        """Run a load, looking around every now and then, until all that was answered with 200 is settled."""
        expected = settled_in(self.ledger)
        load = self.stage.load(order)
        while load.is_running:
            for process in (self.serve, self.worker, self.clock):
                process.check()
            watch()
            time.sleep(LOOK_EVERY_S)
        saw = seen(load, order)
        expected += saw.kept
        wait_until(
            lambda: settled_in(self.ledger) >= expected and waiting_in(self.inbox) == 0,
            "everything is settled",
            self.serve,
            self.worker,
            patience_s=DRAIN_WITHIN_S,
            every_s=LOOK_EVERY_S,
        )
        return saw

    def pass_one(self, body: bytes) -> float:
        """Send one event, watch the ledger closely, and return how many seconds passed until it was settled."""
        headers = {SIGNATURE_HEADER: sign(body, KEY.encode()), "Content-Type": "application/json"}
        with closing(http.client.HTTPConnection(HOST, self.port, timeout=PATIENCE_S)) as connection:
            connection.connect()
            began = time.perf_counter()
            connection.request("POST", PATH, body, headers)
            delivery_id = json.load(connection.getresponse())["id"]
        is_settled = deliveries.c.settled_at.is_not(None)
        query = select(deliveries.c.id).where(deliveries.c.id == delivery_id, is_settled)
        # Through the driver itself, since a look must cost next to nothing: the worker wants this processor, too.
        text = str(query.compile(self.ledger, compile_kwargs={"literal_binds": True}))
        with closing(self.ledger.raw_connection()) as ledger, closing(ledger.cursor()) as cursor:
            while time.perf_counter() - began < PATIENCE_S:
                cursor.execute(text)
                found = cursor.fetchone()
                ledger.rollback()
                if found:
                    return time.perf_counter() - began
                time.sleep(LOOK_CLOSELY_S)
        raise BenchFailed(f"one event was not settled within {PATIENCE_S:.0f} s")


@contextmanager
def everything(stage: Harness) -> Iterator[Pipeline]:
    """Start every process type on the stage."""
    stage.valkey(fsync="everysec")
    worker = stage.work()
    clock = stage.webhooks("clock")
    serve, port = stage.serve()
    settings = stage.settings()
    ledger = create_ledger_engine(settings.database_url)
    try:
        with opened_inbox(settings) as inbox:
            yield Pipeline(stage, serve, port, worker, clock, ledger, inbox)
    finally:
        ledger.dispose()
