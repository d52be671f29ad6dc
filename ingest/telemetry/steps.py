"""The steps of a delivery's trace, and the spans of those that have ended.

receipt -> batch -> run -> push, and receipt -> re-read: each step is a span whose id follows from the delivery and the
step. The first attempt at a step is in the delivery's trace. A later one may come days after it, so it has a trace of
its own, with a link to the first: https://opentelemetry.io/docs/concepts/signals/traces/#span-links
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from hashlib import sha256
from typing import Self


class SpanKind(StrEnum):
    """What a span is to its parent, in OpenTelemetry's words."""

    SERVER = "SERVER"
    """A request that was received."""
    CONSUMER = "CONSUMER"
    """What was taken off a queue."""
    INTERNAL = "INTERNAL"
    """A step of our own."""
    CLIENT = "CLIENT"
    """A request to another service."""


@dataclass(frozen=True, slots=True)
class Step:
    """A step of a delivery, such as the run of one handler, and which attempt at it this is."""

    delivery_id: str
    name: str
    attempt: int = 1

    @property
    def first(self) -> Self:
        """The first attempt at this step."""
        return self if self.attempt == 1 else type(self)(self.delivery_id, self.name)

    @property
    def trace_id(self) -> int:
        """128 bits."""
        return int(self.delivery_id, 16) if self.attempt == 1 else self._digest(16)

    @property
    def span_id(self) -> int:
        """64 bits."""
        return self._digest(8)

    def _digest(self, length: int) -> int:
        text = f"{self.delivery_id} {self.name} {self.attempt}"
        return int.from_bytes(sha256(text.encode()).digest()[-length:], "big")


def receipt_of(delivery_id: str) -> Step:
    """Return the root of a delivery's trace: the request that brought it."""
    return Step(delivery_id, "receipt")


def batch_of(delivery_id: str) -> Step:
    """Return the step of a delivery in its batch."""
    return Step(delivery_id, "batch")


def run_of(delivery_id: str, handler: str, attempt: int = 1) -> Step:
    """Return an attempt at the run of a handler."""
    return Step(delivery_id, f"run {handler}", attempt)


@dataclass(frozen=True, slots=True)
class Span:
    """A step that has ended. No attribute names a driver, a session or a key."""

    step: Step
    name: str
    parent: Step | None
    began_at: datetime
    ended_at: datetime
    kind: SpanKind = SpanKind.INTERNAL
    error: str | None = None
    """The type of the error, if the step failed."""
    attributes: Mapping[str, str | int | bool] = field(default_factory=dict)
