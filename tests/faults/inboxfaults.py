"""What may happen to the disk of the inbox, and to the file on it."""

import resource
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Self

from tests.faults.audit import settle
from tests.faults.cluster import SQLITE, Stage, answers, wait_until
from tests.faults.redisfaults import meanwhile
from tests.faults.smalldisk import SmallDisk
from tests.faults.trials import Group, Trial


class OnSmallDisk(Stage):
    """A stage with its inbox on a disk of its own."""

    def __enter__(self) -> Self:
        self.disk = SmallDisk(self.folder / "node-0", 64)
        return super().__enter__()

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        self.disk.end()


def fill(stage: Stage) -> None:
    """Leave not one byte. Whatever cannot be kept is refused; whatever was kept is worked off."""
    refused = stage.load.refused
    with stage.disk.filled():
        wait_until(lambda: stage.load.refused > refused + 10, "events are refused with 503")
        assert answers(stage.ports[0])
    meanwhile(stage, 5)


def make_read_only(stage: Stage) -> None:
    """Restart the door on a disk that cannot be written, until it can."""
    door = stage.members["serve-0-0"]
    door.stop()
    stage.disk.make_read_only()
    with stage.hears("DATA_DIR cannot be written to"):
        door.start()
    stage.disk.make_writable()
    wait_until(lambda: answers(stage.ports[0]), "the door opens")


def refuse_writes(stage: Stage) -> None:
    """Have the system refuse whatever the door writes, as a broken disk does."""
    refused, pids = stage.load.refused, _family(stage.members["serve-0-0"].pid)
    for pid in pids:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    try:
        wait_until(lambda: stage.load.refused > refused + 10, "events are refused with 503")
    finally:
        for pid in pids:
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    meanwhile(stage, 5)


def corrupt(stage: Stage) -> None:
    """Spoil the file while the door is closed. What it held would be lost, so nothing is in it."""
    _rest(stage)
    with _sets_aside(stage):
        stage.members["serve-0-0"].stop()
        _spoil(next(stage.inboxes()))
        stage.members["serve-0-0"].start()
        stage.load.go()
        wait_until(lambda: answers(stage.ports[0]), "the door opens")
        meanwhile(stage, 5)


def corrupt_under_way(stage: Stage) -> None:
    """Spoil the file under the door's feet."""
    _rest(stage)
    path = next(stage.inboxes())
    with _sets_aside(stage):
        with stage.hears('"door.leaving"'):
            _spoil(path)
            _spoil(Path(f"{path}-wal"))
            stage.load.go()
        meanwhile(stage, 5)


def corrupt_for_the_relay(stage: Stage) -> None:
    """Spoil the index of what waits, of which the door only touches the end, and see that somebody notices."""
    _rest(stage)
    path = next(stage.inboxes())
    with _sets_aside(stage):
        with closing(sqlite3.connect(path, timeout=10)) as file:
            (page,) = file.execute("SELECT rootpage FROM sqlite_master WHERE name = 'deliveries_offered'").fetchone()
            (size,) = file.execute("PRAGMA page_size").fetchone()
            file.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        with stage.hears('"door.leaving"'), path.open("r+b") as spoilt:
            spoilt.seek((page - 1) * size)
            spoilt.write(b"spoilt" * 100)
            spoilt.flush()
            stage.load.go()
        meanwhile(stage, 5)


@contextmanager
def _sets_aside(stage: Stage) -> Iterator[None]:
    """See that a damaged file is set aside meanwhile, and somebody told."""
    folder = next(stage.inboxes()).parent

    def count() -> tuple[int, int]:
        files = [each for each in folder.glob("inbox.db.damaged-*") if not each.name.endswith(("-wal", "-shm"))]
        doors = [name for name in stage.members if name.startswith("serve-")]
        return len(files), sum(stage.said(name).count('"inbox.set_aside"') for name in doors)

    before = count()
    yield
    wait_until(lambda: count()[1] > before[1], "a file is set aside")
    found = tuple(now - then for now, then in zip(count(), before, strict=True))
    assert found == (1, 1), f"{found[0]} files were set aside, and that was said {found[1]} times"


def _rest(stage: Stage) -> None:
    stage.load.pause()
    assert settle(stage, 60) is not None
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
        lambda: Stage(SQLITE),
        [
            Trial("inbox: every write fails", refuse_writes),
            Trial("inbox: corrupt at start", corrupt),
            Trial("inbox: corrupt while in use", corrupt_under_way),
        ],
    ),
    Group(
        "inbox of two processes",
        lambda: Stage(SQLITE, serves=2),
        [
            Trial("inbox: corrupt while two processes use it", corrupt_under_way),
            Trial("inbox: corrupt where only the relay reads", corrupt_for_the_relay),
        ],
    ),
    Group(
        "inbox on a small disk",
        lambda: OnSmallDisk(SQLITE),
        [Trial("inbox: disk full", fill), Trial("inbox: disk read-only at start", make_read_only)],
    ),
]
