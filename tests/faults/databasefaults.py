"""What may happen to the database."""

import os
import sqlite3
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Self

import psycopg

from tests.faults.cluster import POSTGRESQL, SQLITE, TIMEOUT_S, Cluster, wait_until
from tests.faults.redisfaults import meanwhile
from tests.faults.smalldisk import SmallDisk
from tests.faults.trials import Group, Trial

#: Longer than a connection to SQLite waits for a lock. To PostgreSQL it waits for as long as it takes.
LOCKED_FOR = 7.0
#: Longer than anybody waits for a new connection.
HANGS_FOR = 7.0
#: So many connections lose their transaction.
CUTS = 10
SLOW_BY = 0.3


def stop(cluster: Cluster) -> None:
    cluster.postgres.stop()
    meanwhile(cluster)
    cluster.postgres.start()


def hang(cluster: Cluster) -> None:
    with cluster.postgres.hanging():
        time.sleep(HANGS_FOR)
        meanwhile(cluster)


def slow_down(cluster: Cluster) -> None:
    """Let every statement that writes runs take its time."""
    cluster.postgres.execute(
        f"CREATE FUNCTION dawdle() RETURNS trigger AS 'BEGIN PERFORM pg_sleep({SLOW_BY}); RETURN NULL; END'"
        " LANGUAGE plpgsql"
    )
    cluster.postgres.execute("CREATE TRIGGER dawdle AFTER INSERT ON runs FOR EACH STATEMENT EXECUTE FUNCTION dawdle()")
    before = _runs(cluster)
    meanwhile(cluster, 20)
    wait_until(lambda: _runs(cluster) > before, "somebody has written runs, slowly")
    cluster.postgres.execute("DROP TRIGGER dawdle ON runs")
    cluster.postgres.execute("DROP FUNCTION dawdle")


def lock(cluster: Cluster) -> None:
    """Have somebody else's transaction lock our tables."""
    waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'relation'"
    with psycopg.connect(cluster.postgres.uri) as connection:
        while not _has_locked(connection):
            connection.rollback()
        time.sleep(LOCKED_FOR)
        wait_until(lambda: cluster.postgres.execute(waiting) != [(0,)], "somebody waits for the lock")


def _has_locked(connection: psycopg.Connection) -> bool:
    """Lock one table after the other; somebody who has locked them the other way round may go first."""
    try:
        connection.execute("LOCK TABLE deliveries, runs IN ACCESS EXCLUSIVE MODE")
    except psycopg.errors.DeadlockDetected:
        return False
    return True


def cut(cluster: Cluster) -> None:
    """End whatever connection is in a transaction that has written something, again and again."""
    ended = 0
    end = time.monotonic() + TIMEOUT_S
    while ended < CUTS:
        assert time.monotonic() < end, f"only {ended} connections were in such a transaction"
        found = cluster.postgres.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE pid <> pg_backend_pid() AND backend_type = 'client backend' AND backend_xid IS NOT NULL"
        )
        ended += sum(was_there is True for (was_there,) in found)
        time.sleep(0.005)


def _runs(cluster: Cluster) -> int:
    return int(cluster.postgres.execute("SELECT count(*) FROM runs")[0][0])


def lock_file(cluster: Cluster) -> None:
    with closing(sqlite3.connect(cluster.folder / "ledger.db", isolation_level=None)) as file:
        file.execute("BEGIN IMMEDIATE")
        with cluster.waits_for_log("database is locked"):
            time.sleep(LOCKED_FOR)
        file.execute("ROLLBACK")


def read_for_long(cluster: Cluster) -> None:
    """Keep a reader in the file, so that its log cannot be begun anew."""
    with closing(sqlite3.connect(cluster.folder / "ledger.db", isolation_level=None)) as file:
        file.execute("BEGIN")
        file.execute("SELECT count(*) FROM runs").fetchone()
        meanwhile(cluster, 30)
        file.execute("COMMIT")


class DatabaseOnSmallDisk(Cluster):
    """A cluster with its SQLite ledger on a disk of its own."""

    def __enter__(self) -> Self:
        self.disk = SmallDisk(self.folder / "disk", 24)
        self.database_url = f"sqlite:///{self.disk.folder / 'ledger.db'}"
        return super().__enter__()

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        self.disk.end()


def fill(cluster: Cluster) -> None:
    with cluster.disk.filled(), cluster.waits_for_log("database or disk is full"):
        meanwhile(cluster, 20)


def fill_tablespace(cluster: Cluster) -> None:
    """Have PostgreSQL find no space for a table any more."""
    disk = SmallDisk(Path(tempfile.mkdtemp(prefix="faults-disk-")), 24)
    try:
        info = Path(cluster.folder / "postgres").stat()
        os.chown(disk.folder, info.st_uid, info.st_gid)
        cluster.postgres.execute(f"CREATE TABLESPACE small LOCATION '{disk.folder}'")
        for table in ("deliveries", "runs", "effects"):
            cluster.postgres.execute(f"ALTER TABLE {table} SET TABLESPACE small")
        with disk.filled(), cluster.waits_for_log("No space left on device"):
            meanwhile(cluster, 20)
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
        "SQLite",
        lambda: Cluster(SQLITE),
        [Trial("database: locked", lock_file), Trial("database: read for long", read_for_long)],
    ),
    Group("SQLite on a small disk", lambda: DatabaseOnSmallDisk(SQLITE), [Trial("database: disk full", fill)]),
]
