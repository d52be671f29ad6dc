"""Computes the picture of a session's timeline: where each thing is on an axis of time, drawn by a template."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from handlers.kit.session import Session
from workers.diagnostics.session_timeline import TimelineEntry

LABELS = 190
"""The width of the labels, in the units of the picture."""
WIDTH = 1000
RIGHT_MARGIN = 30
ROW = 22
TICKS = 5
MOST_ROWS = 60


@dataclass(frozen=True)
class Mark:
    """One row: what happened at `x`, and until when it was on its way."""

    label: str
    kind: str
    x: float
    until_x: float
    y: int


@dataclass(frozen=True)
class Tick:
    """A time on the axis."""

    at: datetime
    x: float


@dataclass(frozen=True)
class TimelinePicture:
    """The rows, the axis, the span in which the car charged, and the start of the fee."""

    marks: Sequence[Mark]
    ticks: Sequence[Tick]
    charging: tuple[float, float] | None
    fee_x: float | None
    height: int
    width: int = WIDTH


def draw_timeline(record: Session, entries: Sequence[TimelineEntry]) -> TimelinePicture | None:
    """Return the picture of a session; None if there is nothing to draw. Times far from all others are at the edge."""
    things: list[tuple[str, str, datetime, datetime]] = []
    for entry in entries[:MOST_ROWS]:
        received_at = entry.delivery.received_at
        things.append((entry.delivery.event or entry.delivery.kind, "event", entry.at, received_at))
        things += (
            (f"push by {push.channel}", push.state.value, push.created_at, push.sent_at or push.created_at)
            for push in entry.pushes
        )
    if not things:
        return None
    fee_at = record.fee_will_apply_from
    # The times of events are foreign, and may be of any year: the axis is where we received something.
    known = sorted(each for _, _, _, each in things)
    longest = timedelta(days=2)
    times = [at for _, _, at, until in things for at in (at, until) if known[0] - longest <= at <= known[-1] + longest]
    if fee_at is not None and known[0] - longest <= fee_at <= known[-1] + longest:
        times.append(fee_at)
    first, last = min(times), max(times)
    span = max(last - first, timedelta(seconds=1))

    def x(at: datetime) -> float:
        share = min(max((at - first) / span, 0.0), 1.0)
        return round(LABELS + share * (WIDTH - LABELS - RIGHT_MARGIN), 1)

    began_at, ended_at = record.started_at, record.stopped_at or record.completed_at
    return TimelinePicture(
        marks=[
            Mark(label, kind, x(at), x(until), ROW * number + ROW)
            for number, (label, kind, at, until) in enumerate(things, start=1)
        ],
        ticks=[Tick(at, x(at)) for at in (first + span * number / (TICKS - 1) for number in range(TICKS))],
        charging=None if began_at is None else (x(began_at), x(ended_at or last)),
        fee_x=None if fee_at is None else x(fee_at),
        height=ROW * (len(things) + 2),
    )
