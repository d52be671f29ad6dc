"""The statuses of a charging session in one table: their sources, meanings and ranks, and the contradictions of them.

The status with the latest event time wins; of several at that time the one furthest down in `STATUSES`. An unknown
status is recorded too: it ranks below all of these, and means that the session is still running.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


@dataclass(frozen=True, slots=True)
class Status:
    """The properties of a status."""

    meaning: str
    events: tuple[str, ...] = ()
    """The wire names of its events; none: only the Drive API has it."""
    in_drive: bool = False
    """Whether the Drive API is known to have it."""
    is_over: bool = False
    """Whether the session has ended."""


STATUSES: Mapping[str, Status] = {
    "WAITING_TO_START": Status("A start was requested and not answered yet.", in_drive=True),
    "START_FAILED": Status(
        "The start was refused. The least final of the ends, because Plugsurfing may still report a start after it.",
        events=("SESSION_START_FAILED", "SESSION_FAILED"),
        is_over=True,
    ),
    "STARTED": Status("The session runs.", events=("SESSION_STARTED",), in_drive=True),
    "STOP_FAILED": Status(
        "A requested stop failed: the session still runs.", events=("SESSION_STOP_FAILED",), in_drive=True
    ),
    "STOPPED": Status("The session has ended; it is not priced yet.", events=("SESSION_STOPPED",), is_over=True),
    "COMPLETE": Status(
        "The session has ended and nothing more will change.",
        events=("SESSION_COMPLETE", "SESSION_COMPLETED"),
        in_drive=True,
        is_over=True,
    ),
}
"""The known statuses, from the least to the most final. `SESSION_FEE_INCURRING` has none."""

STATUS_RANK: Mapping[str, int] = {status: rank for rank, status in enumerate(STATUSES, start=1)}
"""What decides between two statuses of the same event time: the higher rank. An unknown status ranks 0, below all."""

STATUS_BY_EVENT: Mapping[str, str] = {event: name for name, status in STATUSES.items() for event in status.events}
"""The status of each event, by wire name."""

FINAL_STATUSES = frozenset(name for name, status in STATUSES.items() if status.is_over)
"""The statuses of a session that has ended."""


class Anomaly(StrEnum):
    """A contradiction among the facts of a session. It is recorded and shown, and changes nothing."""

    TWO_USERS = "two_users"
    """Events of the session name different users; the latest one counts."""
    STARTED_AFTER_COMPLETE = "started_after_complete"
    """A start has a later time than a completion."""
    STARTED_AFTER_STOPPED = "started_after_stopped"
    """A start has a later time than a stop."""
    STARTED_AFTER_START_FAILED = "started_after_start_failed"
    """A start has a later time than a failure to start."""
    START_FAILED_AFTER_STARTED = "start_failed_after_started"
    """A failure to start has a later time than a start."""
    AHEAD_OF_CLOCK = "ahead_of_clock"
    """A time was ahead of our clock when it was received, by more than `CLOCK_SKEW`."""


ORDER_ANOMALIES: Mapping[Anomaly, tuple[str, str]] = {
    Anomaly.STARTED_AFTER_COMPLETE: ("COMPLETE", "STARTED"),
    Anomaly.STARTED_AFTER_STOPPED: ("STOPPED", "STARTED"),
    Anomaly.STARTED_AFTER_START_FAILED: ("START_FAILED", "STARTED"),
    Anomaly.START_FAILED_AFTER_STARTED: ("STARTED", "START_FAILED"),
}
"""Two statuses each; the second should not have a later time than the first."""
