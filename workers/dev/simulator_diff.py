"""Compare session records with what really happened, as the simulated Drive API knows it; pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from handlers.kit.session import EVENT, Session
from ingest.simulator.drive.state import SessionState

TIMES = {"started_at": "started_at", "stopped_at": "ended_at", "completed_at": "completed_at"}
"""Fields of a record, and of the simulator's session."""


@dataclass(frozen=True)
class Comparison:
    """The result of a comparison."""

    equal: int
    healed: int
    """How many of the equal ones needed the Drive API."""
    differences: Mapping[str, tuple[str, ...]]
    """The fields that differ, by session; none if the ledger does not know the session."""

    @property
    def sessions(self) -> int:
        """How many sessions were compared."""
        return self.equal + len(self.differences)

    @property
    def unknown(self) -> int:
        """How many sessions the ledger does not know."""
        return sum(not fields for fields in self.differences.values())


def compare(expected: Iterable[SessionState], records: Mapping[str, Session]) -> Comparison:
    """Compare user, status, start, stop and completion of every session of the simulator."""
    differences: dict[str, tuple[str, ...]] = {}
    equal: list[Session] = []
    for session in expected:
        record = records.get(session.session_id)
        fields = () if record is None else differing_fields(session, record)
        if record is None or fields:
            differences[session.session_id] = fields
        else:
            equal.append(record)
    # One is healed if one of its statuses came from the Drive API alone.
    healed = sum(any(EVENT not in times.sources for times in record.statuses.values()) for record in equal)
    return Comparison(len(equal), healed, differences)


def differing_fields(session: SessionState, record: Session) -> tuple[str, ...]:
    """Return the fields in which a record is wrong; its status may be that of the events or of the Drive API."""
    found = [name for name, real in TIMES.items() if getattr(record, name) != getattr(session, real)]
    if record.status not in {session.status, session.status_in_drive}:
        found.append("status")
    if record.user_id != session.user_id:
        found.append("user_id")
    return tuple(found)
