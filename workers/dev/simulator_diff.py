"""Compare what the ledger knows of sessions with what really happened, as the simulated Drive API holds it; pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from handlers.kit.session import Session
from ingest.simulator.drive.state import SessionState

TIMES = {"started_at": "started_at", "stopped_at": "ended_at", "completed_at": "completed_at"}
"""What a record calls a time, and what the truth calls it."""


@dataclass(frozen=True)
class Difference:
    """A session of which the ledger knows something else, or nothing."""

    session_id: str
    fields: tuple[str, ...]
    """What differs; nothing, if the ledger does not know the session."""

    @property
    def is_unknown(self) -> bool:
        """Say whether the ledger does not know the session."""
        return not self.fields


@dataclass(frozen=True)
class Comparison:
    """Many sessions, compared."""

    equal: int
    healed: int
    """Of the equal ones: how many are so thanks to the Drive API."""
    differences: tuple[Difference, ...]

    @property
    def sessions(self) -> int:
        """How many there are in truth."""
        return self.equal + len(self.differences)

    @property
    def unknown(self) -> int:
        """How many the ledger does not know."""
        return sum(each.is_unknown for each in self.differences)


def compare(expected: Iterable[SessionState], records: Mapping[str, Session]) -> Comparison:
    """Compare user, status, start, stop and completion of every session that there is in truth."""
    differences: list[Difference] = []
    equal = healed = 0
    for truth in expected:
        record = records.get(truth.session_id)
        fields = () if record is None else differing_fields(truth, record)
        if record is None or fields:
            differences.append(Difference(truth.session_id, fields))
        else:
            equal += 1
            healed += was_reconciled(record)
    return Comparison(equal, healed, tuple(differences))


def differing_fields(truth: SessionState, record: Session) -> tuple[str, ...]:
    """Name the fields in which a record is not true; a status may be an event's word for it, or the Drive API's."""
    found = [name for name, real in TIMES.items() if getattr(record, name) != getattr(truth, real)]
    if record.status not in {truth.status, truth.status_in_drive}:
        found.append("status")
    if record.user_id != truth.user_id:
        found.append("user_id")
    return tuple(found)


def was_reconciled(record: Session) -> bool:
    """Say whether a status of it was told by the Drive API alone."""
    return any("event" not in moment.sources for moment in record.statuses.values())
