"""What may happen to Redis."""

import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

import redis

from ingest.queue.queues import QUEUES, queue
from tests.faults.cluster import SQLITE, Stage, free_port, wait_until
from tests.faults.trials import Group, Trial
from workers.dev.valkey import is_answering, server_binary

#: Events that come in while Redis is not itself.
MEANWHILE = 15
#: Longer than any client waits for an answer.
HANGS_FOR = 6.5


def meanwhile(stage: Stage, count: int = MEANWHILE) -> None:
    """Let some more events be acknowledged: the door must not notice."""
    before = stage.load.count()
    wait_until(lambda: stage.load.count() >= before + count, "events are acknowledged meanwhile")


@contextmanager
def with_jobs_waiting(stage: Stage) -> Iterator[None]:
    """Have Redis hold jobs that nobody has taken: what it holds for milliseconds only is seldom lost."""
    worker = stage.members["work-0"]
    worker.kill(signal.SIGSTOP)
    try:
        wait_until(lambda: _jobs(stage), "jobs wait in Redis")
        yield
    finally:
        worker.kill(signal.SIGCONT)


def _jobs(stage: Stage) -> int:
    with stage.redis() as connection:
        return sum(queue(name, connection).count for name in QUEUES)


def stop(stage: Stage) -> None:
    with with_jobs_waiting(stage):
        stage.members["valkey"].stop(signal.SIGTERM)
    meanwhile(stage)
    _start(stage)


def empty(stage: Stage) -> None:
    for _ in range(3):
        with with_jobs_waiting(stage), stage.redis() as connection:
            connection.flushall()
        meanwhile(stage, 5)


def forget(stage: Stage) -> None:
    """Lose what it was told: it died, and its disk with it."""
    with with_jobs_waiting(stage):
        stage.members["valkey"].stop(signal.SIGKILL)
    meanwhile(stage, 5)
    shutil.rmtree(stage.folder / "valkey")
    (stage.folder / "valkey").mkdir()
    _start(stage)


def replace(stage: Stage) -> None:
    """Let another one, which knows nothing, take its place while everybody is connected."""
    with with_jobs_waiting(stage):
        stage.members["valkey"].stop(signal.SIGKILL)
    stage.add_valkey(folder="another-valkey")


def fill(stage: Stage) -> None:
    with stage.redis() as connection:
        connection.config_set("maxmemory", 1)
        with stage.hears("command not allowed when used memory"):
            meanwhile(stage)
        connection.config_set("maxmemory", 0)


def hang(stage: Stage) -> None:
    stage.members["valkey"].kill(signal.SIGSTOP)
    try:
        time.sleep(HANGS_FOR)
    finally:
        stage.members["valkey"].kill(signal.SIGCONT)


def fail_over(stage: Stage) -> None:
    """Kill the one that writes, and let the sentinel make the other one it."""
    sentinel = redis.Redis(port=stage.sentinel_port)
    before = sentinel.sentinel_get_master_addr_by_name("queues")
    stage.members[f"valkey-{before[1]}"].stop(signal.SIGKILL)
    meanwhile(stage, 5)
    wait_until(lambda: sentinel.sentinel_get_master_addr_by_name("queues") != before, "the sentinel has decided")


def with_sentinel() -> Stage:
    """Two Valkeys of which one copies the other, and a sentinel that watches them."""
    return Watched(SQLITE, is_plain=False)


class Watched(Stage):
    """A stage that finds its Redis through a sentinel."""

    sentinel_port = 0

    def __enter__(self) -> Self:
        self.sentinel_port = free_port()
        first, second = free_port(), free_port()
        self.redis_url = f"redis+sentinel://127.0.0.1:{self.sentinel_port}/queues/0"
        for port in (first, second):
            folder = self.folder / f"valkey-{port}"
            folder.mkdir()
            options = ["--bind", "127.0.0.1", "--port", str(port), "--dir", str(folder), "--appendonly", "yes"]
            if port == second:
                options += ["--replicaof", "127.0.0.1", str(first), "--repl-diskless-sync-delay", "0"]
            self.add_program(f"valkey-{port}", [str(server_binary()), *options]).start()
            wait_until(lambda port=port: is_answering(port), "Valkey answers")
        config = self.folder / "sentinel.conf"
        config.write_text(
            f"port {self.sentinel_port}\nbind 127.0.0.1\ndir {self.folder}\n"
            f"sentinel monitor queues 127.0.0.1 {first} 1\n"
            "sentinel down-after-milliseconds queues 1000\nsentinel failover-timeout queues 5000\n"
        )
        self.add_program("sentinel", [str(server_binary()), str(config), "--sentinel"]).start()
        sentinel = redis.Redis(port=self.sentinel_port)
        wait_until(lambda: is_answering(self.sentinel_port), "the sentinel answers")
        wait_until(lambda: sentinel.sentinel_slaves("queues"), "the sentinel knows the copy")
        return super().__enter__()


def _start(stage: Stage) -> None:
    stage.members["valkey"].start()
    wait_until(lambda: is_answering(stage.redis_port), "Valkey answers")


GROUPS = [
    Group(
        "Redis",
        lambda: Stage(SQLITE),
        [
            Trial("Redis: stopped", stop),
            Trial("Redis: emptied (FLUSHALL)", empty),
            Trial("Redis: restarted without its data", forget),
            Trial("Redis: replaced by an empty one", replace),
            Trial("Redis: out of memory (noeviction)", fill),
            Trial("Redis: hangs", hang),
        ],
    ),
    Group("Redis with Sentinel", with_sentinel, [Trial("Redis: fails over (Sentinel)", fail_over)]),
]
