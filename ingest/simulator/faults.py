"""Inject faults into the requests between Plugsurfing and us."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from random import Random

from ingest.simulator.scenarios import SimulatedEvent, conflicting_cdr
from ingest.wire.envelope import Kind

DEFAULT_RATE = 0.2
"""The share of requests that a fault strikes."""


class Fault(StrEnum):
    """A way in which a request can go wrong; it strikes at its rate, and once in any case."""

    DUP = "dup"
    """The request is sent twice."""
    LATE = "late"
    """In each session one event is sent after all others."""
    SHUFFLE = "shuffle"
    """All requests are sent in any order, concurrently."""
    DROP = "drop"
    """The request is not sent: Plugsurfing skips events."""
    BAD_SIG = "bad-sig"
    """The signature is made with a wrong key."""
    CHUNKED = "chunked"
    """The body is sent in chunks, without its length."""
    SLOW = "slow"
    """The body is sent slowly."""
    GZIP = "gzip"
    """The body is compressed."""
    CONFLICT = "conflict"
    """A CDR is sent again with the same request id and another price. Does not apply to events."""


@dataclass(frozen=True)
class PlannedRequest:
    """An event to send, and the faults of its request."""

    event: SimulatedEvent
    faults: frozenset[Fault] = frozenset()


def inject_faults(
    scenarios: Iterable[Sequence[SimulatedEvent]], faults: Sequence[Fault], random: Random, share: float = DEFAULT_RATE
) -> list[tuple[PlannedRequest, ...]]:
    """Return the requests to send: those of a tuple one after the other, the tuples concurrently.

    Without faults that is one tuple a scenario. The same `random` gives the same plan.
    """
    tracks = [tuple(_plan(events, faults, random, share, first=n == 0)) for n, events in enumerate(scenarios)]
    if Fault.LATE in faults:
        tracks = [_with_one_late(track, random) for track in tracks]
    if Fault.SHUFFLE in faults:
        single: list[tuple[PlannedRequest, ...]] = [(request,) for track in tracks for request in track]
        random.shuffle(single)
        return single
    return [track for track in tracks if track]


def _plan(
    events: Sequence[SimulatedEvent], faults: Sequence[Fault], random: Random, share: float, *, first: bool
) -> Iterator[PlannedRequest]:
    for position, event in enumerate(events):
        # In the first scenario each fault strikes once for certain, each at another event, so that a short one has all.
        struck = frozenset(
            fault
            for number, fault in enumerate(faults)
            if random.random() < share or (first and position == _guaranteed_position(fault, number, events))
        )
        if Fault.DROP in struck:
            continue
        request = PlannedRequest(event, struck)
        yield request
        if Fault.DUP in struck:
            yield request
        if Fault.CONFLICT in struck and event.kind is Kind.CDRS:
            yield PlannedRequest(conflicting_cdr(event), struck)


def _guaranteed_position(fault: Fault, number: int, events: Sequence[SimulatedEvent]) -> int:
    anywhere = number % len(events)
    cdrs = (position for position, event in enumerate(events) if event.kind is Kind.CDRS)
    return next(cdrs, anywhere) if fault is Fault.CONFLICT else anywhere


def _with_one_late(track: tuple[PlannedRequest, ...], random: Random) -> tuple[PlannedRequest, ...]:
    if len(track) < 2:  # noqa: PLR2004  nothing to be later than
        return track
    late = random.randrange(len(track) - 1)
    return (*track[:late], *track[late + 1 :], track[late])
