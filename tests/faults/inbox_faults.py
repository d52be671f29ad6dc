"""Faults of the inbox file and of its disk."""

import resource
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Self

from tests.faults.audit import wait_until_quiet
from tests.faults.cluster import SQLITE, Cluster, is_answering_http, wait_until
from tests.faults.redis_faults import wait_for_events
from tests.faults.small_disk import SmallDisk
from tests.faults.trials import Group, Trial


class InboxOnSmallDisk(Cluster):
    """A cluster with its inbox on a small disk."""

    def __enter__(self) -> Self:
        self.disk = SmallDisk(self.folder / "node-0", 64)
        return super().__enter__()

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        self.disk.end()


def fill(cluster: Cluster) -> None:
    """Fill the disk: new events are refused, and those in the inbox are still processed."""
    refused = cluster.load.refused
    with cluster.disk.filled():
        wait_until(lambda: cluster.load.refused > refused + 10, "events are refused with 503")
        assert is_answering_http(cluster.ports[0])
    wait_for_events(cluster, 5)


def make_read_only(cluster: Cluster) -> None:
    """Restart `serve` on a read-only disk, and make that writable again."""
    endpoint = cluster.members["serve-0-0"]
    endpoint.stop()
    cluster.disk.make_read_only()
    with cluster.expect_log("DATA_DIR cannot be written to"):
        endpoint.start()
    cluster.disk.make_writable()
    wait_until(lambda: is_answering_http(cluster.ports[0]), "serve answers again")


def refuse_writes(cluster: Cluster) -> None:
    """Make every write of `serve` fail, as on a broken disk."""
    refused, pids = cluster.load.refused, _process_tree(cluster.members["serve-0-0"].pid)
    for pid in pids:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    try:
        wait_until(lambda: cluster.load.refused > refused + 10, "events are refused with 503")
    finally:
        for pid in pids:
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    wait_for_events(cluster, 5)


def corrupt(cluster: Cluster) -> None:
    """Corrupt the file while `serve` is down. It is empty by then, since its deliveries would be lost."""
    _drain(cluster)
    with _expect_quarantine(cluster):
        cluster.members["serve-0-0"].stop()
        _overwrite(next(cluster.inboxes()))
        cluster.members["serve-0-0"].start()
        cluster.load.start()
        wait_until(lambda: is_answering_http(cluster.ports[0]), "serve answers again")
        wait_for_events(cluster, 5)


def corrupt_while_in_use(cluster: Cluster) -> None:
    """Corrupt the file while `serve` uses it."""
    _drain(cluster)
    path = next(cluster.inboxes())
    with _expect_quarantine(cluster):
        with cluster.expect_log('"server.draining"'):
            _overwrite(path)
            _overwrite(Path(f"{path}-wal"))
            cluster.load.start()
        wait_for_events(cluster, 5)


def corrupt_for_the_relay(cluster: Cluster) -> None:
    """Corrupt the start of the index of waiting deliveries, which the relay reads and inserts do not touch."""
    _drain(cluster)
    path = next(cluster.inboxes())
    with _expect_quarantine(cluster):
        with closing(sqlite3.connect(path, timeout=10)) as file:
            (page,) = file.execute("SELECT rootpage FROM sqlite_master WHERE name = 'deliveries_offered'").fetchone()
            (size,) = file.execute("PRAGMA page_size").fetchone()
            file.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        with cluster.expect_log('"server.draining"'), path.open("r+b") as file:
            file.seek((page - 1) * size)
            file.write(b"corrupt" * 100)
            file.flush()
            cluster.load.start()
        wait_for_events(cluster, 5)


@contextmanager
def _expect_quarantine(cluster: Cluster) -> Iterator[None]:
    """Check at the end that one damaged file was set aside, and that this was logged once."""
    folder = next(cluster.inboxes()).parent

    def count() -> tuple[int, int]:
        files = [each for each in folder.glob("inbox.db.damaged-*") if not each.name.endswith(("-wal", "-shm"))]
        endpoints = [name for name in cluster.members if name.startswith("serve-")]
        return len(files), sum(cluster.log_of(name).count('"inbox.quarantined"') for name in endpoints)

    before = count()
    yield
    # It is logged before the file is renamed.
    wait_until(lambda: all(now > then for now, then in zip(count(), before, strict=True)), "a file is set aside")
    found = tuple(now - then for now, then in zip(count(), before, strict=True))
    assert found == (1, 1), f"{found[0]} files were set aside, and that was logged {found[1]} times"


def _drain(cluster: Cluster) -> None:
    cluster.load.pause()
    assert wait_until_quiet(cluster, 60) is not None
    time.sleep(1)  # until the relay has cleaned up in Redis, too


def _overwrite(path: Path) -> None:
    with path.open("r+b") as file:
        size = path.stat().st_size
        for at in range(0, size, 4096):
            file.seek(at)
            file.write(b"corrupt" * 300)


def _process_tree(pid: int) -> list[int]:
    """Return a process and its descendants."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(each for child in children for each in _process_tree(int(child)))]


GROUPS = [
    Group(
        "inbox",
        lambda: Cluster(SQLITE),
        [
            Trial("inbox: every write fails", refuse_writes),
            Trial("inbox: corrupt at start", corrupt),
            Trial("inbox: corrupt while in use", corrupt_while_in_use),
        ],
    ),
    Group(
        "inbox of two processes",
        lambda: Cluster(SQLITE, serves=2),
        [
            Trial("inbox: corrupt while two processes use it", corrupt_while_in_use),
            Trial("inbox: corrupt where only the relay reads", corrupt_for_the_relay),
        ],
    ),
    Group(
        "inbox on a small disk",
        lambda: InboxOnSmallDisk(SQLITE),
        [Trial("inbox: disk full", fill), Trial("inbox: disk read-only at start", make_read_only)],
    ),
]
