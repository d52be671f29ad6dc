"""Samples of what an installation uses: memory, files, threads, disk, rows, and keys of Redis."""

import os
import re
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import psutil
import redis
from sqlalchemy import func, inspect, select, table
from sqlalchemy.exc import DBAPIError

from ingest.errors import QueueUnavailable
from tests.faults.cluster import POSTGRESQL, Cluster
from tests.faults.effects import effects
from tests.faults.growth import (
    CONNECTIONS,
    DISK,
    FILES,
    KEYS,
    MEMORY,
    PROCESSES,
    REDIS_MEMORY,
    ROWS,
    THREADS,
    Metric,
    Sample,
    Series,
    Trend,
    trend,
)
from workers.ledger.database.engine import read_only

MIB = 1 << 20
#: A part of a key's name that is an id: of a job, a batch, a worker, a node.
ID = re.compile(r"[0-9a-f]{8,}[0-9a-f-]*|\d{2,}")
STORED = {DISK, ROWS, KEYS, REDIS_MEMORY}
UNAVAILABLE = (DBAPIError, QueueUnavailable, redis.RedisError)


class Sampler:
    """Samples a cluster again and again, and says what grows."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._began = time.monotonic()
        self._pids: dict[str, int] = {}
        self._lives: Counter[str] = Counter()
        self.series: dict[Series, list[Sample]] = defaultdict(list)

    def sample(self) -> None:
        """Add a sample to each series; what cannot be read now, since a fault hits it, has none."""
        at = time.monotonic() - self._began
        pids = {name: member.pid for name, member in list(self._cluster.members.items()) if member.is_running}
        if self._cluster.postgres is not None:
            pids[POSTGRESQL] = self._cluster.postgres.pid
        for name, pid in pids.items():
            if self._pids.setdefault(name, pid) != pid:
                self._lives[name] += 1
                self._pids[name] = pid
            used = dict(of_process(pid))
            if name == POSTGRESQL and used:
                # It has a process for each connection, which opens the files of the tables that it reads.
                used = {MEMORY: used[MEMORY], CONNECTIONS: used[PROCESSES]}
            for metric, value in used.items():
                self.series[name, metric].append(Sample(at, value, self._lives[name]))
        for series, value in (*self._of_disk(), *self._of_ledger(), *self._of_redis()):
            self.series[series].append(Sample(at, value))

    def trends(self, warm_up: float, *, of_stores: float) -> list[Trend]:
        """Return how each series went after the warm-up, which is a longer one for what is stored."""
        found = (
            trend(series, samples, warm_up=of_stores if series[1] in STORED else warm_up)
            for series, samples in self.series.items()
        )
        return sorted((each for each in found if each is not None), key=lambda each: (each.subject, each.metric.name))

    def _of_disk(self) -> Iterator[tuple[Series, float]]:
        folder = self._cluster.folder
        for path in folder.iterdir():
            # Logs are written for whoever collects them, and the list of pushes is the provider's.
            if path.suffix != ".log" and path != self._cluster.pushed:
                yield (path.name, DISK), size_of(path) / MIB

    def _of_ledger(self) -> Iterator[tuple[Series, float]]:
        try:
            with read_only(self._cluster.engine) as ledger:
                for name in inspect(ledger).get_table_names():
                    if name != effects.name:  # the audit deletes its rows
                        count = ledger.scalar(select(func.count()).select_from(table(name))) or 0
                        yield (f"ledger: {name}", ROWS), count
        except UNAVAILABLE:
            return

    def _of_redis(self) -> Iterator[tuple[Series, float]]:
        try:
            with redis.Redis(port=self._cluster.redis_port, socket_timeout=5) as connection:
                count, memory = Counter[str](), Counter[str]()
                for key in connection.scan_iter(count=500):
                    group = "Redis: " + ID.sub("…", key.decode(errors="replace"))
                    count[group] += 1
                    memory[group] += connection.memory_usage(key, samples=5) or 0
                yield ("Redis", REDIS_MEMORY), connection.info("memory")["used_memory"] / MIB
        except UNAVAILABLE:
            return
        yield ("Redis", KEYS), count.total()
        for group in count:
            yield (group, KEYS), count[group]
            yield (group, REDIS_MEMORY), memory[group] / MIB


def of_process(pid: int) -> Iterator[tuple[Metric, float]]:
    """Yield what a process and its descendants use: each page that they share counts once."""
    memory = files = threads = 0.0
    number = 0
    for process in family(pid):
        try:
            memory += process.memory_full_info().pss / MIB
            files += process.num_fds()
            threads += process.num_threads()
            number += 1
        except psutil.Error:
            continue
    if number:
        yield from ((MEMORY, memory), (FILES, files), (THREADS, threads), (PROCESSES, number))


def family(pid: int) -> list[psutil.Process]:
    try:
        parent = psutil.Process(pid)
        return [parent, *parent.children(recursive=True)]
    except psutil.Error:
        return []


def size_of(path: Path) -> float:
    """Return the bytes on disk of a file or a folder."""
    try:
        if path.is_dir():
            return sum(size_of(Path(each)) for each in os.scandir(path))
        return path.lstat().st_blocks * 512
    except OSError:  # deleted meanwhile
        return 0
