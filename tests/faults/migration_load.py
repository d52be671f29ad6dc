"""Migrate a large ledger while rows are inserted, and print for how long: `python -m tests.faults.migration_load`.

It is on PostgreSQL, with the tables of the first version, and a tenth as many CDRs as deliveries. The inserts are those
of a batch of one: a delivery, its run, its session, a push, and the end of the delivery.
"""

# ruff: noqa: T201  it prints its figures
import argparse
import itertools
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self

import psycopg

from tests.faults.cluster import ROOT
from tests.faults.postgres import Postgres
from workers.ledger.database.migrate import migrate
from workers.ledger.database.schema_state import SchemaState, schema_state

#: The first version with all tables that a later one alters or copies.
ALL_TABLES = "0005"
LIMIT_S = 1.0
BASELINE_S = 10.0

FILL = """
INSERT INTO deliveries SELECT
    'd' || n, 'events',
    (ARRAY['SESSION_STARTED', 'SESSION_FEE_INCURRING', 'SESSION_STOPPED', 'SESSION_COMPLETE'])[n % 4 + 1],
    's' || n / 4, now() - n * interval '3 s', 'current', NULL, '{"content-type": "application/json"}',
    convert_to(repeat(md5(n::text), 8), 'UTF8'), 'here', 'settled', NULL, now(), now()
    FROM generate_series(FIRST, LAST) AS n;
INSERT INTO runs (delivery_id, handler, queue, outcome, attempts, deaths, started_at, finished_at)
    SELECT 'd' || n, 'session_record', 'sessions', 'done', 1, 0, now(), now() FROM generate_series(FIRST, LAST) AS n;
INSERT INTO sessions SELECT
    's' || n / 4, 'Driver-' || n % 100000, 'COMPLETE', now(), now(), now(), NULL, NULL, '[]', '{}',
    now() - n * interval '3 s' FROM generate_series(FIRST, LAST, 4) AS n;
INSERT INTO pushes SELECT
    'p' || n, 'd' || n, 'fee_warning', 's' || n / 4, 'Driver-' || n % 100000, 'log', 'sent', 'A title', 'A body', '{}',
    'fee:' || n, NULL, NULL, now() - n * interval '3 s', NULL, now(), 1, NULL
    FROM generate_series(FIRST, LAST, 4) AS n
"""
FILL_CDRS = """
INSERT INTO cdrs (delivery_id, request_id, user_id, amount, currency, notes, document, received_at, recorded_at)
    SELECT 'c' || n, 'r' || n, 'Driver-' || n % 100000, n / 100.0, 'EUR', '[]', repeat(md5(n::text), 8),
    now() - n * interval '3 s', now() FROM generate_series(FIRST, LAST) AS n
"""
INSERT = (
    """INSERT INTO deliveries
    (id, kind, event, session_id, received_at, signed_with, headers, body, inbox, state, stored_at) VALUES
    (%(id)s, 'events', 'SESSION_STARTED', %(session)s, now(), 'current', '{}', '{}', 'here', 'running', now())""",
    """INSERT INTO runs (delivery_id, handler, queue, outcome, attempts, deaths, due_at)
    VALUES (%(id)s, 'session_record', 'sessions', 'waiting', 0, 0, now())""",
    """INSERT INTO sessions (session_id, user_id, anomalies, facts, updated_at)
    VALUES (%(session)s, 'Driver-1', '[]', '{}', now()) ON CONFLICT (session_id) DO UPDATE SET updated_at = now()""",
    """INSERT INTO pushes
    (id, delivery_id, handler, user_id, channel, state, title, body, payload, collapse_key, attempts,
    created_at, due_at)
    VALUES (%(id)s, %(id)s, 'h', 'Driver-1', 'log', 'waiting', '', '', '{}', '', 0, now(), now())""",
    "UPDATE runs SET outcome = 'done', due_at = NULL WHERE delivery_id = %(id)s",
    "UPDATE deliveries SET state = 'settled', settled_at = now() WHERE id = %(id)s",
)
#: Locks that an insert waits for, held on tables of ours.
BLOCKING = """
SELECT l.relation::regclass::text, l.pid FROM pg_locks l JOIN pg_class c ON c.oid = l.relation
WHERE l.granted AND l.mode IN ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
AND c.relkind = 'r' AND c.relnamespace = 'public'::regnamespace
"""


class Inserts:
    """Inserts from four connections, and watches locks from one. A context manager, which raises what fails."""

    CONNECTIONS = 4

    def __init__(self, uri: str, rate: float, numbers: Iterator[int]) -> None:
        self._uri, self._pause, self._numbers = uri, self.CONNECTIONS / rate, numbers
        self._ends = threading.Event()
        self._pool = ThreadPoolExecutor(self.CONNECTIONS + 1)
        self.seconds: list[float] = []
        """How long each insert took."""
        self.locks: dict[str, float] = {}
        """By table: for how many seconds at most inserts had to wait for a lock."""

    def __enter__(self) -> Self:
        self._running = [self._pool.submit(target) for target in [*[self._insert] * self.CONNECTIONS, self._watch]]
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        self._pool.shutdown()
        for each in self._running:
            each.result()

    def _insert(self) -> None:
        with psycopg.connect(self._uri) as conn:
            while not self._ends.is_set():
                number = next(self._numbers)
                started = time.monotonic()
                for statement in INSERT:
                    conn.execute(statement, {"id": f"new-{number}", "session": f"new-{number // 4}"})
                conn.commit()
                self.seconds.append(time.monotonic() - started)
                time.sleep(self._pause)

    def _watch(self) -> None:
        since: dict[tuple[str, int], float] = {}
        with psycopg.connect(self._uri, autocommit=True) as conn:
            while not self._ends.wait(0.02):
                now = time.monotonic()
                since = {(table, pid): since.get((table, pid), now) for table, pid in conn.execute(BLOCKING)}
                for (table, _), start in since.items():
                    self.locks[table] = max(self.locks.get(table, 0), now - start)


def fill(uri: str, statements: str, rows: int) -> None:
    """Insert rows, some at once."""
    with psycopg.connect(uri, autocommit=True) as conn:
        conn.execute("SET synchronous_commit = off")
        for first in range(1, rows + 1, 100_000):
            for statement in statements.split(";"):
                last = min(first + 99_999, rows)
                conn.execute(statement.replace("FIRST", str(first)).replace("LAST", str(last)))


def run_migrations(url: str, processes: int, kill_within: float) -> int:
    """Run `webhooks migrate` in several processes until all succeed; kill each after some time. Return the kills."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "DATABASE_URL": url, "LOG_FORMAT": "json"}
    chance = random.Random()
    kills = 0

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-m", "workers.cli", "migrate"], env=environment)

    running = [(start(), time.monotonic() + chance.uniform(0, kill_within)) for _ in range(processes)]
    while running:
        time.sleep(0.05)
        left = []
        for process, end in running:
            if process.poll() is None and kill_within and time.monotonic() > end:
                process.kill()
                process.wait()
                kills += 1
                kill_within *= 1.1  # so that the longest step has its chance
                left.append((start(), time.monotonic() + chance.uniform(0, kill_within)))
            elif process.poll() is None:
                left.append((process, end))
            elif process.returncode:
                raise SystemExit(f"`webhooks migrate` failed with exit code {process.returncode}")
        running = left
    return kills


def main() -> int:
    """Return 1 if an insert waited for longer than a second, or if rows are missing."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.migration_load", description=__doc__)
    parser.add_argument(
        "--rows", type=int, default=1_000_000, help="deliveries in the ledger (1000000; 1 GB each million)"
    )
    parser.add_argument("--rate", type=float, default=50, help="deliveries a second that are inserted (50)")
    parser.add_argument("--processes", type=int, default=1, help="how many `webhooks migrate` at once (1)")
    parser.add_argument("--kill-within", type=float, default=0, help="kill each within so many seconds, at random")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="migration-") as folder:
        postgres = Postgres(Path(folder))
        try:
            return measure(postgres, options)
        finally:
            postgres.end()


def measure(postgres: Postgres, options: argparse.Namespace) -> int:
    began = time.monotonic()
    migrate(postgres.url, until="0001")
    fill(postgres.uri, FILL, options.rows)
    migrate(postgres.url, until=ALL_TABLES)
    fill(postgres.uri, FILL_CDRS, options.rows // 10)
    ((size,),) = postgres.execute("SELECT pg_size_pretty(pg_database_size(current_database()))")
    print(f"{options.rows:,} deliveries, {size}, inserted in {time.monotonic() - began:.0f} s", flush=True)
    numbers = itertools.count()
    with Inserts(postgres.uri, options.rate, numbers) as before:
        time.sleep(BASELINE_S)
    began = time.monotonic()
    with Inserts(postgres.uri, options.rate, numbers) as during:
        kills = run_migrations(postgres.url, options.processes, options.kill_within)
    print(f"migrated in {time.monotonic() - began:.0f} s, killed {kills} times")
    ((found,),) = postgres.execute("SELECT count(*) FROM deliveries")
    ((records,),) = postgres.execute("SELECT count(*) FROM cdrs WHERE identity = request_id")
    ((invalid,),) = postgres.execute("SELECT count(*) FROM pg_index WHERE NOT indisvalid")
    for name, inserts in (("before", before), ("during", during)):
        print_times(name, inserts.seconds)
    for table, seconds in sorted(during.locks.items()):
        print(f"a lock that inserts wait for: {table}, {seconds:.2f} s at most")
    missing = options.rows + len(before.seconds) + len(during.seconds) - found
    print(f"missing: {missing} deliveries, {options.rows // 10 - records} CDRs; invalid indexes: {invalid}")
    is_whole = (missing, records, invalid) == (0, options.rows // 10, 0)
    is_quick = max(*during.seconds, *during.locks.values()) < LIMIT_S
    return 0 if is_whole and is_quick and schema_state(postgres.url) is SchemaState.CURRENT else 1


def print_times(name: str, seconds: list[float]) -> None:
    in_order = sorted(seconds)
    middle, high = in_order[len(in_order) // 2], in_order[len(in_order) * 99 // 100]
    longest = in_order[-1]
    print(f"{name}: {len(in_order)} inserts, median {middle:.3f} s, 99 % {high:.3f} s, longest {longest:.3f} s")


if __name__ == "__main__":
    sys.exit(main())
