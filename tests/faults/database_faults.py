"""Faults of the database."""

import os
import sqlite3
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Self

import psycopg

from tests.faults.cluster import POSTGRESQL, SQLITE, TIMEOUT_S, Cluster, wait_until
from tests.faults.postgres import ReplicatedPostgres
from tests.faults.redis_faults import wait_for_events
from tests.faults.small_disk import SmallDisk
from tests.faults.trials import Group, Trial

#: Longer than SQLite's busy timeout; PostgreSQL waits for a lock without one.
LOCKED_FOR_S = 7.0
#: Longer than the timeout of a new connection.
HANGS_FOR_S = 7.0
#: The number of transactions whose connection is cut.
CUTS = 10
SLOWED_BY_S = 0.3


def stop(cluster: Cluster) -> None:
    cluster.postgres.stop()
    wait_for_events(cluster)
    cluster.postgres.start()


def hang(cluster: Cluster) -> None:
    with cluster.postgres.hanging():
        time.sleep(HANGS_FOR_S)
        wait_for_events(cluster)


def slow_down(cluster: Cluster) -> None:
    """Delay every statement that inserts runs."""
    cluster.postgres.execute(
        f"CREATE FUNCTION slow() RETURNS trigger AS 'BEGIN PERFORM pg_sleep({SLOWED_BY_S}); RETURN NULL; END'"
        " LANGUAGE plpgsql"
    )
    cluster.postgres.execute("CREATE TRIGGER slow AFTER INSERT ON runs FOR EACH STATEMENT EXECUTE FUNCTION slow()")
    before = _runs(cluster)
    wait_for_events(cluster, 20)
    wait_until(lambda: _runs(cluster) > before, "runs are inserted, slowly")
    cluster.postgres.execute("DROP TRIGGER slow ON runs")
    cluster.postgres.execute("DROP FUNCTION slow")


def lock(cluster: Cluster) -> None:
    """Lock our tables in a transaction of another client."""
    waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'relation'"
    with psycopg.connect(cluster.postgres.uri) as connection:
        while not _has_locked(connection):
            connection.rollback()
        time.sleep(LOCKED_FOR_S)
        wait_until(lambda: cluster.postgres.execute(waiting) != [(0,)], "a process waits for the lock")


def _has_locked(connection: psycopg.Connection) -> bool:
    """Lock one table after the other; return False on a deadlock with a process that locks them in the other order."""
    try:
        connection.execute("LOCK TABLE deliveries, runs IN ACCESS EXCLUSIVE MODE")
    except psycopg.errors.DeadlockDetected:
        return False
    return True


def cut(cluster: Cluster) -> None:
    """Cut connections whose transaction has written something, until there were enough."""
    ended = 0
    end = time.monotonic() + TIMEOUT_S
    while ended < CUTS:
        assert time.monotonic() < end, f"only {ended} connections were in such a transaction"
        found = cluster.postgres.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE pid <> pg_backend_pid() AND backend_type = 'client backend' AND backend_xid IS NOT NULL"
        )
        ended += sum(is_ended is True for (is_ended,) in found)
        time.sleep(0.005)


def _runs(cluster: Cluster) -> int:
    return int(cluster.postgres.execute("SELECT count(*) FROM runs")[0][0])


def lock_file(cluster: Cluster) -> None:
    with closing(sqlite3.connect(cluster.folder / "ledger.db", isolation_level=None)) as file:
        file.execute("BEGIN IMMEDIATE")
        with cluster.expect_log("database is locked"):
            time.sleep(LOCKED_FOR_S)
        file.execute("ROLLBACK")


def read_for_long(cluster: Cluster) -> None:
    """Hold a read transaction, so that the WAL cannot be reset."""
    with closing(sqlite3.connect(cluster.folder / "ledger.db", isolation_level=None)) as file:
        file.execute("BEGIN")
        file.execute("SELECT count(*) FROM runs").fetchone()
        wait_for_events(cluster, 30)
        file.execute("COMMIT")


class ReplicatedCluster(Cluster):
    """A cluster on PostgreSQL with a standby."""

    postgres_type = ReplicatedPostgres


def fail_over(cluster: Cluster) -> None:
    cluster.postgres.fail_over()
    wait_for_events(cluster, 20)


class DatabaseOnSmallDisk(Cluster):
    """A cluster with its SQLite ledger on a small disk."""

    def __enter__(self) -> Self:
        self.disk = SmallDisk(self.folder / "disk", 24)
        self.database_url = f"sqlite:///{self.disk.folder / 'ledger.db'}"
        return super().__enter__()

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        self.disk.end()


def fill(cluster: Cluster) -> None:
    with cluster.disk.filled(), cluster.expect_log("database or disk is full"):
        wait_for_events(cluster, 20)


def fill_tablespace(cluster: Cluster) -> None:
    """Fill the tablespace of the tables."""
    disk = SmallDisk(Path(tempfile.mkdtemp(prefix="faults-disk-")), 24)
    try:
        info = Path(cluster.folder / "postgres").stat()
        os.chown(disk.folder, info.st_uid, info.st_gid)
        cluster.postgres.execute(f"CREATE TABLESPACE small LOCATION '{disk.folder}'")
        for table in ("deliveries", "runs", "effects"):
            cluster.postgres.execute(f"ALTER TABLE {table} SET TABLESPACE small")
        with disk.filled(), cluster.expect_log("No space left on device"):
            wait_for_events(cluster, 20)
        for table in ("deliveries", "runs", "effects"):
            cluster.postgres.execute(f"ALTER TABLE {table} SET TABLESPACE pg_default")
        cluster.postgres.execute("DROP TABLESPACE small")
    finally:
        disk.end()


GROUPS = [
    Group(
        "PostgreSQL",
        lambda: Cluster(POSTGRESQL),
        [
            Trial("database: stopped", stop),
            Trial("database: hangs", hang),
            Trial("database: slow", slow_down),
            Trial("database: locked", lock),
            Trial("database: connections cut in transactions", cut),
            Trial("database: disk full", fill_tablespace),
        ],
    ),
    Group(
        "PostgreSQL with a standby",
        lambda: ReplicatedCluster(POSTGRESQL),
        [Trial("database: fails over to a standby", fail_over)],
    ),
    Group(
        "SQLite",
        lambda: Cluster(SQLITE),
        [Trial("database: locked", lock_file), Trial("database: read for long", read_for_long)],
    ),
    Group("SQLite on a small disk", lambda: DatabaseOnSmallDisk(SQLITE), [Trial("database: disk full", fill)]),
]
