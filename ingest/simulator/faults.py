"""What goes wrong between Plugsurfing and us, done on purpose."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from random import Random

from ingest.simulator.scenarios import SimulatedEvent, conflicting_cdr
from ingest.wire.envelope import Kind

# The part of all requests that a fault befalls, unless another is asked for.
DEFAULT_RATE = 0.2


class Fault(StrEnum):
    """A way to go wrong. Where nothing else is said it befalls one request in five, and one in any case."""

    DUP = "dup"
    """A request is made twice."""
    LATE = "late"
    """In each session one event is told after all others."""
    SHUFFLE = "shuffle"
    """All requests are made in any order, side by side."""
    DROP = "drop"
    """A request is not made: Plugsurfing skips events."""
    BAD_SIG = "bad-sig"
    """The signature is made with a key that is neither of ours."""
    CHUNKED = "chunked"
    """The body is sent in chunks, its length untold."""
    SLOW = "slow"
    """The body takes its time."""
    GZIP = "gzip"
    """The body is compressed."""
    CONFLICT = "conflict"
    """A CDR is told once more, with the same request id and at another price. Events have none."""


@dataclass(frozen=True)
class PlannedRequest:
    """Something to be said, and what goes wrong with the request."""

    telling: SimulatedEvent
    faults: frozenset[Fault] = frozenset()


def inject_faults(
    stories: Iterable[Sequence[SimulatedEvent]], faults: Sequence[Fault], random: Random, share: float = DEFAULT_RATE
) -> list[tuple[PlannedRequest, ...]]:
    """Say what to send: the steps of a tuple one after the other, the tuples side by side.

    Without faults that is one tuple a story. The same `random` gives the same plan.
    """
    tracks = [tuple(_steps(told, faults, random, share, first=number == 0)) for number, told in enumerate(stories)]
    if Fault.LATE in faults:
        tracks = [_with_one_late(track, random) for track in tracks]
    if Fault.SHUFFLE in faults:
        alone: list[tuple[PlannedRequest, ...]] = [(step,) for track in tracks for step in track]
        random.shuffle(alone)
        return alone
    return [track for track in tracks if track]


def _steps(
    told: Sequence[SimulatedEvent], faults: Sequence[Fault], random: Random, share: float, *, first: bool
) -> Iterator[PlannedRequest]:
    for place, telling in enumerate(told):
        # In the first story each fault strikes once for certain, one after the other, so that a short one shows all.
        struck = frozenset(
            fault
            for number, fault in enumerate(faults)
            if random.random() < share or (first and place == _guaranteed_fault(fault, number, told))
        )
        if Fault.DROP in struck:
            continue
        step = PlannedRequest(telling, struck)
        yield step
        if Fault.DUP in struck:
            yield step
        if Fault.CONFLICT in struck and telling.kind is Kind.CDRS:
            yield PlannedRequest(conflicting_cdr(telling), struck)


def _guaranteed_fault(fault: Fault, number: int, told: Sequence[SimulatedEvent]) -> int:
    """Say which telling of the first story a fault is sure to strike."""
    contradicted = (place for place, telling in enumerate(told) if telling.kind is Kind.CDRS)
    anywhere = number % len(told)
    return next(contradicted, anywhere) if fault is Fault.CONFLICT else anywhere


def _with_one_late(track: tuple[PlannedRequest, ...], random: Random) -> tuple[PlannedRequest, ...]:
    if len(track) < 2:  # noqa: PLR2004  nothing to be later than
        return track
    late = random.randrange(len(track) - 1)
    return (*track[:late], *track[late + 1 :], track[late])
