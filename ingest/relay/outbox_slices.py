"""What the relay carries: rows that wait and fit into a batch, and batches that are on their way."""

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class OutboxSlice:
    """Rows of one queue that fit into one batch, oldest first, by their numbers and the bytes of their bodies."""

    queue: str
    seqs: tuple[int, ...]
    sizes: tuple[int, ...]
    is_full: bool
    """A limit was met: there may be more."""

    @property
    def bytes(self) -> int:
        """Add up the bodies."""
        return sum(self.sizes)

    def split(self) -> "tuple[OutboxSlice, OutboxSlice]":
        """Cut the load in two."""
        cut = len(self.seqs) // 2
        return self._part(slice(None, cut)), self._part(slice(cut, None))

    def _part(self, which: slice) -> "OutboxSlice":
        return OutboxSlice(self.queue, self.seqs[which], self.sizes[which], is_full=False)


@dataclass(frozen=True, slots=True)
class BatchPayload:
    """What travels in a batch, ready for Redis."""

    names: tuple[tuple[str, bool], ...]
    """What each delivery is called, and whether it only tells that it came again."""
    session_id: str | None
    """A session that one of them is about."""
    deliveries: bytes
    """As JSON."""


@dataclass(frozen=True, slots=True)
class InFlightBatch:
    """A batch that was handed to Redis and is not settled; `deaths` is how often its one delivery died alone."""

    batch_id: str
    queue: str
    offered_at: datetime | None
    count: int
    bytes: int
    deaths: int
