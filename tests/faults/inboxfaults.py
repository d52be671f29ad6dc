"""What may happen to the disk of the inbox, and to the file on it."""

import resource
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Self

from tests.faults.audit import wait_until_quiet
from tests.faults.cluster import SQLITE, Cluster, is_answering_http, wait_until
from tests.faults.redisfaults import meanwhile
from tests.faults.smalldisk import SmallDisk
from tests.faults.trials import Group, Trial


class InboxOnSmallDisk(Cluster):
    """A cluster with its inbox on a disk of its own."""

    def __enter__(self) -> Self:
        self.disk = SmallDisk(self.folder / "node-0", 64)
        return super().__enter__()

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        self.disk.end()


def fill(cluster: Cluster) -> None:
    """Leave not one byte. Whatever cannot be kept is refused; whatever was kept is worked off."""
    refused = cluster.load.refused
    with cluster.disk.filled():
        wait_until(lambda: cluster.load.refused > refused + 10, "events are refused with 503")
        assert is_answering_http(cluster.ports[0])
    meanwhile(cluster, 5)


def make_read_only(cluster: Cluster) -> None:
    """Restart the endpoint on a disk that cannot be written, until it can."""
    endpoint = cluster.members["serve-0-0"]
    endpoint.stop()
    cluster.disk.make_read_only()
    with cluster.waits_for_log("DATA_DIR cannot be written to"):
        endpoint.start()
    cluster.disk.make_writable()
    wait_until(lambda: is_answering_http(cluster.ports[0]), "serve answers again")


def refuse_writes(cluster: Cluster) -> None:
    """Have the system refuse whatever the endpoint writes, as a broken disk does."""
    refused, pids = cluster.load.refused, _family(cluster.members["serve-0-0"].pid)
    for pid in pids:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    try:
        wait_until(lambda: cluster.load.refused > refused + 10, "events are refused with 503")
    finally:
        for pid in pids:
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    meanwhile(cluster, 5)


def corrupt(cluster: Cluster) -> None:
    """Spoil the file while the endpoint is closed. What it held would be lost, so nothing is in it."""
    _rest(cluster)
    with _sets_aside(cluster):
        cluster.members["serve-0-0"].stop()
        _spoil(next(cluster.inboxes()))
        cluster.members["serve-0-0"].start()
        cluster.load.start()
        wait_until(lambda: is_answering_http(cluster.ports[0]), "serve answers again")
        meanwhile(cluster, 5)


def corrupt_under_way(cluster: Cluster) -> None:
    """Spoil the file under the endpoint's feet."""
    _rest(cluster)
    path = next(cluster.inboxes())
    with _sets_aside(cluster):
        with cluster.waits_for_log('"server.draining"'):
            _spoil(path)
            _spoil(Path(f"{path}-wal"))
            cluster.load.start()
        meanwhile(cluster, 5)


def corrupt_for_the_relay(cluster: Cluster) -> None:
    """Spoil the index of what waits, of which the endpoint only touches the end, and see that somebody notices."""
    _rest(cluster)
    path = next(cluster.inboxes())
    with _sets_aside(cluster):
        with closing(sqlite3.connect(path, timeout=10)) as file:
            (page,) = file.execute("SELECT rootpage FROM sqlite_master WHERE name = 'deliveries_offered'").fetchone()
            (size,) = file.execute("PRAGMA page_size").fetchone()
            file.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        with cluster.waits_for_log('"server.draining"'), path.open("r+b") as spoilt:
            spoilt.seek((page - 1) * size)
            spoilt.write(b"spoilt" * 100)
            spoilt.flush()
            cluster.load.start()
        meanwhile(cluster, 5)


@contextmanager
def _sets_aside(cluster: Cluster) -> Iterator[None]:
    """See that a damaged file is set aside meanwhile, and somebody told."""
    folder = next(cluster.inboxes()).parent

    def count() -> tuple[int, int]:
        files = [each for each in folder.glob("inbox.db.damaged-*") if not each.name.endswith(("-wal", "-shm"))]
        endpoints = [name for name in cluster.members if name.startswith("serve-")]
        return len(files), sum(cluster.log_of(name).count('"inbox.quarantined"') for name in endpoints)

    before = count()
    yield
    wait_until(lambda: count()[1] > before[1], "a file is set aside")
    found = tuple(now - then for now, then in zip(count(), before, strict=True))
    assert found == (1, 1), f"{found[0]} files were set aside, and that was said {found[1]} times"


def _rest(cluster: Cluster) -> None:
    cluster.load.pause()
    assert wait_until_quiet(cluster, 60) is not None
    time.sleep(1)  # until the relay has told Redis, too


def _spoil(path: Path) -> None:
    with path.open("r+b") as file:
        size = path.stat().st_size
        for at in range(0, size, 4096):
            file.seek(at)
            file.write(b"spoilt" * 300)


def _family(pid: int) -> list[int]:
    """A process and its children."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(each for child in children for each in _family(int(child)))]


GROUPS = [
    Group(
        "inbox",
        lambda: Cluster(SQLITE),
        [
            Trial("inbox: every write fails", refuse_writes),
            Trial("inbox: corrupt at start", corrupt),
            Trial("inbox: corrupt while in use", corrupt_under_way),
        ],
    ),
    Group(
        "inbox of two processes",
        lambda: Cluster(SQLITE, serves=2),
        [
            Trial("inbox: corrupt while two processes use it", corrupt_under_way),
            Trial("inbox: corrupt where only the relay reads", corrupt_for_the_relay),
        ],
    ),
    Group(
        "inbox on a small disk",
        lambda: InboxOnSmallDisk(SQLITE),
        [Trial("inbox: disk full", fill), Trial("inbox: disk read-only at start", make_read_only)],
    ),
]
