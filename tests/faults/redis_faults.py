"""Faults of Redis."""

import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

import redis

from ingest.queue.queues import QUEUES
from ingest.queue.redis_client import queue
from tests.faults.cluster import SQLITE, Cluster, wait_until
from tests.faults.trials import Group, Trial
from tests.ports import reserve_port
from workers.dev.valkey import is_answering, server_binary

#: Events that are acknowledged during a fault.
DURING_A_FAULT = 15
#: Longer than the timeout of any client.
HANGS_FOR_S = 6.5


def wait_for_events(cluster: Cluster, count: int = DURING_A_FAULT) -> None:
    """Wait until more events are acknowledged, as they must be during the fault."""
    before = cluster.load.count()
    wait_until(lambda: cluster.load.count() >= before + count, "events are acknowledged during the fault")


@contextmanager
def with_jobs_waiting(cluster: Cluster) -> Iterator[None]:
    """Stop the worker until jobs wait in Redis, so that the fault hits some; else they are there for milliseconds."""
    worker = cluster.members["work-0"]
    worker.kill(signal.SIGSTOP)
    try:
        wait_until(lambda: _count_jobs(cluster), "jobs wait in Redis")
        yield
    finally:
        worker.kill(signal.SIGCONT)


def _count_jobs(cluster: Cluster) -> int:
    with cluster.redis() as connection:
        return sum(queue(name, connection).count for name in QUEUES)


def stop(cluster: Cluster) -> None:
    with with_jobs_waiting(cluster):
        cluster.members["valkey"].stop(signal.SIGTERM)
    wait_for_events(cluster)
    _start(cluster)


def empty(cluster: Cluster) -> None:
    for _ in range(3):
        with with_jobs_waiting(cluster), cluster.redis() as connection:
            connection.flushall()
        wait_for_events(cluster, 5)


def lose_data(cluster: Cluster) -> None:
    """Kill it, and restart it without its data."""
    with with_jobs_waiting(cluster):
        cluster.members["valkey"].stop(signal.SIGKILL)
    wait_for_events(cluster, 5)
    shutil.rmtree(cluster.folder / "valkey")
    (cluster.folder / "valkey").mkdir()
    _start(cluster)


def replace(cluster: Cluster) -> None:
    """Replace it by an empty one while all are connected."""
    with with_jobs_waiting(cluster):
        cluster.members["valkey"].stop(signal.SIGKILL)
    cluster.add_valkey(folder="another-valkey")


def fill(cluster: Cluster) -> None:
    with cluster.redis() as connection:
        connection.config_set("maxmemory", 1)
        with cluster.expect_log("command not allowed when used memory"):
            wait_for_events(cluster)
        connection.config_set("maxmemory", 0)


def hang(cluster: Cluster) -> None:
    cluster.members["valkey"].kill(signal.SIGSTOP)
    try:
        time.sleep(HANGS_FOR_S)
    finally:
        cluster.members["valkey"].kill(signal.SIGCONT)


def fail_over(cluster: Cluster) -> None:
    """Kill the master, and wait until the sentinel has promoted the replica."""
    sentinel = redis.Redis(port=cluster.sentinel_port)
    before = sentinel.sentinel_get_master_addr_by_name("queues")
    cluster.members[f"valkey-{before[1]}"].stop(signal.SIGKILL)
    wait_for_events(cluster, 5)
    wait_until(
        lambda: sentinel.sentinel_get_master_addr_by_name("queues") != before, "the sentinel has promoted the replica"
    )


def with_sentinel() -> Cluster:
    """Return a cluster with a Valkey, its replica and a sentinel."""
    return SentinelCluster(SQLITE, has_valkey=False)


class SentinelCluster(Cluster):
    """A cluster that finds its Redis through a sentinel."""

    sentinel_port = 0

    def __enter__(self) -> Self:
        self.sentinel_port = reserve_port()
        first, second = reserve_port(), reserve_port()
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
        wait_until(lambda: sentinel.sentinel_slaves("queues"), "the sentinel knows the replica")
        return super().__enter__()


def _start(cluster: Cluster) -> None:
    cluster.members["valkey"].start()
    wait_until(lambda: is_answering(cluster.redis_port), "Valkey answers")


GROUPS = [
    Group(
        "Redis",
        lambda: Cluster(SQLITE),
        [
            Trial("Redis: stopped", stop),
            Trial("Redis: emptied (FLUSHALL)", empty),
            Trial("Redis: restarted without its data", lose_data),
            Trial("Redis: replaced by an empty one", replace),
            Trial("Redis: out of memory (noeviction)", fill),
            Trial("Redis: hangs", hang),
        ],
    ),
    Group("Redis with Sentinel", with_sentinel, [Trial("Redis: fails over (Sentinel)", fail_over)]),
]
