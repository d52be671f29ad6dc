"""What strangers can hold of a server at most: connections, hence descriptors, and bytes of unfinished bodies."""

import contextlib
import ctypes
import resource
from collections.abc import Collection
from typing import Any, Protocol

import structlog
import uvicorn

from ingest.config.settings import Settings
from ingest.metrics import limit_metrics
from ingest.server.socket_activation import BACKLOG

log = structlog.get_logger()

# Descriptors for the inbox, Redis, the database, listening sockets and other processes.
RESERVED_FILES = 128
# Bytes of a connection that the kernel buffers, and so most that the event loop reads of it in one turn. By itself the
# kernel lets this grow to megabytes, for a stranger as well.
RECEIVE_BUFFER = 65_536
# From glibc's <malloc.h>; in bytes.
M_MMAP_THRESHOLD = -3
LARGE_BLOCK = 32_768
M_ARENA_MAX = -8
ARENAS = 2


class LimitedConnection(Protocol):
    """An open connection, as the limits see it."""

    @property
    def shed_order(self) -> tuple[int, float] | None:
        """What sorts connections: the first is closed first. None while a complete request waits for its answer."""

    @property
    def holds_complete_body(self) -> bool:
        """Whether the body that is counted is complete."""

    def half_close_if_idle(self) -> bool:
        """Announce the end of an idle connection; a request that crosses with that is still read."""

    def shed(self, *, unread: bool) -> bool:
        """Close it, with `unread` even if bytes of a request wait in the kernel; return whether it was closed."""


def raise_file_limit() -> int:
    """Raise the soft limit of open files to the hard one, and return it. Docker's soft limit is 1,024 by default."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == hard:
        return soft
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (ValueError, OSError) as error:  # macOS names a hard limit that it does not grant
        log.warning("files.limit_kept", soft=soft, hard=hard, error=str(error))
        return soft
    log.info("files.limit_raised", before=soft, now=hard)
    return hard


def return_memory() -> None:
    """Return large blocks to the system when they are free: glibc's heap keeps most of what a flood needed."""
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, LARGE_BLOCK)


def share_heaps() -> None:
    """Set two heaps of glibc for all threads; by itself it keeps eight a core, each with what it once needed."""
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, ARENAS)


class ConnectionLimit:
    """Bounds the connections of a process, so that descriptors are left for the inbox and Redis.

    New connections are always accepted: long before they become too many, those that have been idle for longest are
    half-closed; then, those that have been waited for longest are closed. Connections on which a request has proved to
    be authentic come last.
    """

    def __init__(self, wanted: int, files: int) -> None:
        files = files if files > 0 else wanted + RESERVED_FILES + 4 * BACKLOG  # RLIM_INFINITY is negative
        # The event loop accepts them all in one turn, and only then looks at them.
        self.backlog = min(BACKLOG, files // 4)
        self.most = max(1, min(wanted, files - min(RESERVED_FILES, files // 4) - self.backlog))
        self.idle_above = self.most - self.most // 8
        self._batch = max(1, self.most // 32)
        self.half_closed = 0

    def make_room(self, connections: Collection[LimitedConnection]) -> None:
        """Half-close or close some connections if there are too many; to be called for each new one."""
        count = len(connections)
        is_full = count > self.most
        if not is_full and (count - self.half_closed <= self.idle_above or count % self._batch):
            return  # sorting them costs some milliseconds
        ordered = sorted((order, number) for number, each in enumerate(connections) if (order := each.shed_order))
        listed = list(connections)
        candidates = [listed[number] for _, number in ordered]
        shed = self._close(candidates) if is_full else self._half_close(candidates)
        limit_metrics().connections_shed(shed, half_closed=not is_full)
        log.warning("connections.shed", count=shed, half_closed=not is_full, open=count, most=self.most)

    def _half_close(self, candidates: list[LimitedConnection]) -> int:
        shed = 0
        for each in candidates:
            shed += each.half_close_if_idle()
            if shed == self._batch:
                break
        return shed

    def _close(self, candidates: list[LimitedConnection]) -> int:
        shed = 0
        for each in candidates:
            shed += each.shed(unread=False)
            if shed == self._batch:
                break
        if not shed and candidates:
            shed += candidates[0].shed(unread=True)
        return shed


class BodyLimit:
    """Bounds the bytes of bodies that a process has read and not answered yet.

    Beyond it, the bodies that are the largest and have been incomplete for the longest get a 503: nobody can keep
    others out by not finishing theirs. Small bodies that arrive in one piece are not counted.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.total = 0
        self._held: dict[LimitedConnection, tuple[int, float]] = {}

    def add(self, connection: LimitedConnection, count: int, now: float) -> None:
        """Count bytes that have arrived, and drop bodies if there are too many."""
        before, since = self._held.get(connection, (0, now))
        self._held[connection] = before + count, since
        self.total += count
        if self.total > self.most:
            self._drop(connection, now)

    def release(self, connection: LimitedConnection) -> None:
        """Count the bytes of a connection no longer."""
        count, _ = self._held.pop(connection, (0, 0.0))
        self.total -= count

    def _drop(self, newest: LimitedConnection, now: float) -> None:
        # Some more than needed, as finding the worst takes longer the more there are.
        enough = self.most - self.most // 8
        worst = sorted(
            (each for each in self._held if not each.holds_complete_body),
            key=lambda each: self._held[each][0] * (now - self._held[each][1]),
            reverse=True,
        )
        dropped = 0
        for each in worst:
            if self.total <= enough:
                break
            each.shed(unread=True)
            self.release(each)
            dropped += 1
        if self.total > self.most and newest in self._held:
            newest.shed(unread=True)
            self.release(newest)
            dropped += 1
        limit_metrics().bodies_dropped(dropped)
        log.warning("bodies.dropped", count=dropped, most_bytes=self.most)


class LimitedConfig(uvicorn.Config):
    """uvicorn's configuration with the limits of the server, which its connections share."""

    def __init__(self, app: Any, settings: Settings, **options: Any) -> None:
        self.connection_limit = ConnectionLimit(settings.max_connections, raise_file_limit())
        self.longest_body = settings.max_body_bytes
        self.body_limit = BodyLimit(max(settings.arriving_bytes, settings.max_body_bytes))
        super().__init__(
            app,
            backlog=self.connection_limit.backlog,
            timeout_keep_alive=settings.keep_alive.total_seconds(),  # type: ignore[arg-type]  # a float will do
            **options,
        )
