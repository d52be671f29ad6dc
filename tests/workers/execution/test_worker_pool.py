"""The processes of a worker: real forks of a process that does nothing else."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from ingest.queue.queues import QUEUES
from workers.execution.worker_pool import WORKERS

POOL = """
import os, pathlib, signal, sys
from workers.execution.worker_pool import WorkerPool

def run(queues):
    pathlib.Path(sys.argv[1], str(os.getpid())).write_text(" ".join(queues))
    signal.pause()

WorkerPool(run).run()
"""

Until = Callable[[Callable[[], object]], None]


class Pool:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.process = subprocess.Popen([sys.executable, "-c", POOL, str(folder)])

    def alive(self) -> dict[int, str]:
        """Return the queues of each process that lives, by its id."""
        found = {int(path.name): path.read_text() for path in self._folder.iterdir()}
        return {pid: queues for pid, queues in found.items() if queues and is_alive(pid)}


def is_alive(pid: int) -> bool:
    with suppress(OSError):
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    return False


@pytest.fixture
def pool(tmp_path: Path, until: Until) -> Iterator[Pool]:
    running = Pool(tmp_path)
    until(lambda: len(running.alive()) == len(WORKERS))
    yield running
    running.process.kill()
    running.process.wait()
    until(lambda: not running.alive())


def test_what_is_urgent_has_a_process_of_its_own_and_every_queue_has_one(pool: Pool) -> None:
    served = set(pool.alive().values())
    assert served == {" ".join(queues) for queues in WORKERS}
    assert "urgent" in served
    assert {name for queues in served for name in queues.split()} == set(QUEUES)


def test_a_process_that_dies_is_replaced_and_a_signal_ends_all(pool: Pool, until: Until) -> None:
    before = pool.alive()
    killed = next(pid for pid, queues in before.items() if queues == "urgent")
    os.kill(killed, signal.SIGKILL)
    until(lambda: killed not in pool.alive() and sorted(pool.alive().values()) == sorted(before.values()))
    pool.process.terminate()
    assert pool.process.wait(60) == 0
    assert not pool.alive()


def test_the_processes_end_with_a_pool_that_is_killed(pool: Pool, until: Until) -> None:
    pool.process.kill()
    until(lambda: not pool.alive())
