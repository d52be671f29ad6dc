"""Put a cluster under pressure, and see that it recovers: `python -m tests.faults.pressure --minutes 10`.

A transaction is held open, readers hammer the ledger, twice as many events come as can be settled. Before, meanwhile
and after, short floods are settled: the recovery ratio is the rate after to the rate before, once all that came
meanwhile is done, its pushes too. Exit code 1: it is below 0.9, something is never done, or `webhooks check` does not
name the transaction.
"""

# ruff: noqa: T201  it prints its table
import argparse
import signal
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from statistics import median

import psycopg

from tests.faults.audit import wait_until_quiet
from tests.faults.cluster import POSTGRESQL, SQLITE, Cluster
from tests.faults.flood import flood
from tests.faults.report import commit
from workers.alerts.condition_rules import open_transactions
from workers.ledger import transaction_monitor
from workers.ledger.database.engine import read_only

RECOVERED = 0.9
#: In minutes the log does not grow to the 256 MB of the alert.
LOG_GROWS_MB = 4
READERS = 4
QUERIES = (
    "SELECT count(*) FROM deliveries",
    "SELECT * FROM sessions ORDER BY updated_at DESC LIMIT 200",
    "SELECT handler, outcome, count(*) FROM runs GROUP BY 1, 2",
)
FLOODS = 3
#: What came during minutes of pressure may take as long again, and longer on a busy machine.
DRAINS_WITHIN_S = 1800.0
HEAD = (
    "| pressure | database | settled/s before | meanwhile | after | recovery ratio | s until all was done"
    " | ledger MB before | after | largest log MB | named |\n|---|---|" + "--:|" * 8 + "---|"
)


@dataclass(frozen=True)
class Pressure:
    """Something that is done to a cluster for minutes."""

    name: str
    apply: Callable[[Cluster], AbstractContextManager[object]]
    is_oversupply: bool = False
    is_named: bool = False
    """Whether `check` has to name it."""


@contextmanager
def held_transaction(cluster: Cluster) -> Iterator[None]:
    """Hold a transaction open that has read, as a forgotten shell or a long backup does."""
    if cluster.postgres is not None:
        with psycopg.connect(cluster.postgres.uri, application_name="forgotten") as connection:
            connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            connection.execute(QUERIES[0]).fetchone()
            yield
        return
    with closing(sqlite3.connect(cluster.folder / "ledger.db", isolation_level=None)) as file:
        file.execute("BEGIN")
        file.execute(QUERIES[0]).fetchone()
        yield
        file.execute("COMMIT")


@contextmanager
def readers(cluster: Cluster) -> Iterator[None]:
    """Read the ledger without a pause, as reports that somebody wrote do."""
    ended = threading.Event()

    def read() -> None:
        while not ended.is_set():
            for query in QUERIES:
                with read_only(cluster.engine) as ledger:
                    ledger.exec_driver_sql(query).fetchall()

    threads = [threading.Thread(target=read) for _ in range(READERS)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        for thread in threads:
            thread.join()


@contextmanager
def nothing(_cluster: Cluster) -> Iterator[None]:
    yield


PRESSURES = (
    Pressure("a transaction is held open", held_transaction, is_named=True),
    Pressure(f"{READERS} readers without a pause", readers),
    Pressure("twice as many events as are settled", nothing, is_oversupply=True),
)


def put_under(cluster: Cluster, pressure: Pressure, seconds: float, flood_s: float) -> bool:
    """Apply a pressure, print its row, and return whether the cluster has recovered, and its operator was told."""
    drain(cluster)
    before, size = settle(cluster, flood_s), ledger_mb(cluster)
    if seconds < transaction_monitor.OPEN_FOR.total_seconds():  # too short for what takes ten minutes in earnest
        transaction_monitor.OPEN_FOR = timedelta(seconds=seconds / 2)
    transaction_monitor.WAL_BYTES = round(1e6 * (log_mb(cluster) + LOG_GROWS_MB))
    largest, named = 0.0, ""
    meanwhile = []
    began = time.monotonic()
    with pressure.apply(cluster):
        if pressure.is_oversupply:
            meanwhile.append(flood(cluster, seconds, rate=2 * before))
        while time.monotonic() - began < seconds:
            meanwhile.append(flood(cluster, flood_s))
            largest = max(largest, log_mb(cluster))
        with read_only(cluster.engine) as ledger:
            named = " ".join(each.alert.sentence for each in open_transactions(ledger, datetime.now(UTC)))
    drained_s = drain(cluster)
    after = settle(cluster, flood_s)
    ratio = after / before
    cells = (
        *(pressure.name, cluster.database),
        *(f"{rate:,.0f}" for rate in (before, median(meanwhile), after)),
        *(
            f"{ratio:.2f}",
            f"{drained_s:.0f}",
            f"{size:.0f}",
            f"{ledger_mb(cluster):.0f}",
            f"{max(largest, log_mb(cluster)):.0f}",
        ),
        named or "–",
    )
    print(f"| {' | '.join(cells)} |", flush=True)
    return ratio >= RECOVERED and bool(named or not pressure.is_named)


def drain(cluster: Cluster) -> float:
    """Wait until all that came is done, its pushes too; return the seconds."""
    took = wait_until_quiet(cluster, DRAINS_WITHIN_S)
    if took is None:
        sys.exit(f"{cluster.database}: after {DRAINS_WITHIN_S:.0f} s something is still under way")
    return took


def settle(cluster: Cluster, seconds: float) -> float:
    """Return the median rate of some floods: a single one may meet another program of this machine."""
    return median(flood(cluster, seconds) for _ in range(FLOODS))


def ledger_mb(cluster: Cluster) -> float:
    """Return the size of the ledger."""
    if cluster.postgres is None:
        return (cluster.folder / "ledger.db").stat().st_size / 1e6
    ((size,),) = cluster.postgres.execute("SELECT pg_database_size(current_database())")
    return int(str(size)) / 1e6


def log_mb(cluster: Cluster) -> float:
    """Return the size of SQLite's write-ahead log, or of PostgreSQL's."""
    if cluster.postgres is None:
        return transaction_monitor.wal_size(cluster.engine) / 1e6
    ((size,),) = cluster.postgres.execute("SELECT sum(size) FROM pg_ls_waldir()")
    return int(str(size)) / 1e6


def main() -> int:
    """Return 1 if a cluster has not recovered, or nobody was told."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.pressure", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10, help="how long each lasts (10)")
    parser.add_argument("--flood", type=float, default=5, help="seconds of a flood by which speed is measured (5)")
    parser.add_argument("--database", choices=(SQLITE, POSTGRESQL), help="only on this one")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the context managers end what they started
    seconds = 60 * options.minutes
    print(
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, commit {commit()}, {options.minutes:g} min each\n\n{HEAD}", flush=True
    )
    is_well = True
    for database in [options.database] if options.database else [SQLITE, POSTGRESQL]:
        with Cluster(database, settings={"LOG_LEVEL": "warning"}) as cluster:
            for pressure in PRESSURES:
                is_well &= put_under(cluster, pressure, seconds, options.flood)
    return 0 if is_well else 1


if __name__ == "__main__":
    sys.exit(main())
