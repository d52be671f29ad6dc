"""Metrics of the worker processes of one supervisor, in files that all of them map: whichever is asked adds them up.

It is prometheus_client's multiprocess mode with three additions. A worker has the number of its place instead of its
process id, so that a replacement goes on counting where the one before it ended: no count goes back, and the files do
not grow in number. Their room is allocated at once, as a write to a mapped file on a full disk would kill the process.
And they lie in memory where there is such a folder.
"""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import structlog
from prometheus_client import CollectorRegistry, ProcessCollector, multiprocess, values
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

log = structlog.get_logger()

GAUGE_MODE: Final = "livemax"
FILES = ("counter", "histogram", f"gauge_{GAUGE_MODE}")
FILE_BYTES = 1 << 16
"""Ten times what our metrics need; a test measures it."""

FOLDER_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
FOLDER_PREFIX = "webhooks-metrics-"
MEMORY = Path("/dev/shm")  # noqa: S108 - `mkdtemp` makes a folder there that is ours alone

SUMMED = ("cpu_seconds", "virtual_memory_bytes", "resident_memory_bytes", "open_fds")
"""Of these the sum over processes means something; the others are the supervisor's."""


@contextmanager
def shared_folder(fallback: Path) -> Iterator[Path | None]:
    """Make a folder for the files of one supervisor's workers and delete it afterwards; None if that fails.

    Folders of supervisors that were killed are deleted, too.
    """
    try:
        parent = MEMORY if os.access(MEMORY, os.W_OK | os.X_OK) else fallback
        _delete_abandoned(parent)
        folder = Path(tempfile.mkdtemp(prefix=FOLDER_PREFIX, dir=parent))
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        log.warning("metrics.not_shared", error=error.strerror)
        yield None
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def allocate(folder: Path, place: int) -> bool:
    """Make the files of a worker, unless there are those of the one before it; return False if there is no room."""
    try:
        for kind in FILES:
            with (folder / f"{kind}_{place}.db").open("ab") as file:
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(file.fileno(), 0, FILE_BYTES)
    except OSError as error:
        log.warning("metrics.not_shared", error=error.strerror)
        return False
    return True


def share_metrics(folder: Path, place: int) -> None:
    """Count in the files of this place from now on. Called before any metric is made."""
    os.environ[FOLDER_VARIABLE] = str(folder)
    values.ValueClass = values.MultiProcessValue(lambda: place)  # type: ignore[no-untyped-call]


def drop_gauges(folder: Path, place: int) -> None:
    """Delete the gauges of a worker that has ended. Its counts stay."""
    with suppress(OSError):
        multiprocess.mark_process_dead(place, str(folder))  # type: ignore[no-untyped-call]


def registry_of_all() -> CollectorRegistry | None:
    """Return the metrics of all workers; None if this process shares its metrics with no other."""
    folder = os.environ.get(FOLDER_VARIABLE, "")
    if values.ValueClass is values.MutexValue or not Path(folder).is_dir():
        return None
    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry, folder)  # type: ignore[no-untyped-call]
    registry.register(_ProcessTreeCollector(os.getppid()))
    return registry


class _ProcessTreeCollector(Collector):
    """The memory, files and CPU time of a process and its children, those that have ended included."""

    def __init__(self, parent: int) -> None:
        self._parent = parent

    def collect(self) -> Iterable[Metric]:
        """Return the metrics of the parent, with those of its children added."""
        own = list(ProcessCollector(registry=None, pid=lambda: self._parent).collect())
        summed = {metric.name: metric for metric in own if metric.name.removeprefix("process_") in SUMMED}
        for child in self._children():
            for metric in ProcessCollector(registry=None, pid=lambda child=child: child).collect():  # type: ignore[misc]
                if metric.name in summed:
                    self._add(summed[metric.name], metric.samples[0].value)
        if "process_cpu_seconds" in summed:
            self._add(summed["process_cpu_seconds"], self._seconds_of_ended())
        return own

    def _add(self, metric: Metric, value: float) -> None:
        metric.samples = [sample._replace(value=sample.value + value) for sample in metric.samples]

    def _children(self) -> list[int]:
        with suppress(OSError):
            return [int(pid) for pid in Path(f"/proc/{self._parent}/task/{self._parent}/children").read_text().split()]
        return []

    def _seconds_of_ended(self) -> float:
        with suppress(OSError):
            fields = Path(f"/proc/{self._parent}/stat").read_text("ascii", "replace").rpartition(")")[2].split()
            return (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")
        return 0.0


def _delete_abandoned(parent: Path) -> None:
    """Delete the folders whose supervisors are gone: the kernel has freed their locks."""
    for folder in parent.glob(f"{FOLDER_PREFIX}*"):
        with suppress(OSError):  # another user's, or it is being deleted
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(lock)
