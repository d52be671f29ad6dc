"""State of the simulated Drive API: what really happened in sessions, and keys, fleets, balances and locations.

Sessions are those of the simulator's events, complete even if their events are dropped. Everything else is drawn from a
seed: the same seed gives the same state.
"""

import contextlib
import json
import string
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import Any, Literal, get_args

import pydantic
from pydantic import AwareDatetime, TypeAdapter

from ingest.simulator.scenarios import COMPLETE, STARTED, STOPPED, SimulatedEvent, format_timestamp
from ingest.wire.timestamps import parse_timestamp

KEYS, FLEETS, LOCATIONS = 250, 3, 20
OPERATORS = ("Example Charging", "Volt & Sons", "Stadtstrom", "Fjord Lading")
NEVER_ENDS, LONG_OVER = parse_timestamp("2099-12-31T23:59:59Z"), parse_timestamp("2020-01-31T23:59:59Z")

Status = Literal["WAITING_TO_START", "START_FAILED", "STARTED", "STOP_FAILED", "STOPPED", "COMPLETE"]
STATUS_ORDER: tuple[Status, ...] = get_args(Status)
"""From the least to the most final."""
STATUS_BY_EVENT = {f"SESSION_{status}": status for status in STATUS_ORDER}
STATUS_IN_DRIVE = {"START_FAILED": "WAITING_TO_START", "STOPPED": "STARTED"}
"""Statuses of events that the Drive API has not been seen to return, and what it returns instead."""


@pydantic.dataclasses.dataclass(frozen=True)
class SessionState:
    """What really happened in one session."""

    session_id: str
    user_id: str
    status: Status = "WAITING_TO_START"
    started_at: AwareDatetime | None = None
    ended_at: AwareDatetime | None = None
    completed_at: AwareDatetime | None = None

    @property
    def status_in_drive(self) -> str:
        """The status as the Drive API returns it."""
        return STATUS_IN_DRIVE.get(self.status, self.status)

    def merge(self, other: "SessionState") -> "SessionState":
        """Return the state that follows from two scenarios of one session."""
        return SessionState(
            other.session_id,
            other.user_id,
            max(self.status, other.status, key=STATUS_ORDER.index),
            min(filter(None, (self.started_at, other.started_at)), default=None),
            max(filter(None, (self.ended_at, other.ended_at)), default=None),
            max(filter(None, (self.completed_at, other.completed_at)), default=None),
        )


def dump_sessions(sessions: Iterable[SessionState]) -> bytes:
    """Format sessions as JSON, one a line."""
    return b"".join(SESSION.dump_json(session) + b"\n" for session in sessions)


def parse_sessions(lines: bytes) -> list[SessionState]:
    """Parse sessions from JSON lines. Raise ValueError."""
    return [SESSION.validate_json(line) for line in lines.splitlines() if line]


SESSION = TypeAdapter(SessionState)


@dataclass
class DriveState:
    """Everything that the simulated Drive API holds. With a file, sessions survive the process."""

    seed: int = 0
    file: Path | None = None
    sessions: dict[str, SessionState] = field(default_factory=dict)
    keys: dict[str, Mapping[str, Any]] = field(init=False)
    fleets: dict[str, str | None] = field(init=False)
    locations: dict[str, str] = field(init=False)
    """Operators by the id of the location."""
    tokens: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    """Tokens pushed to Roam OCPI, by `country/party/uid`."""

    def __post_init__(self) -> None:
        """Draw what the seed gives, and read the file."""
        random = Random(self.seed)  # noqa: S311  nothing secret is drawn
        self.fleets = {f"fleet-{number}": f"Fleet {number}" for number in range(1, FLEETS + 1)}
        keys = [_draw_key(random, number, list(self.fleets)) for number in range(KEYS)]
        self.keys = {key["keyIdentifier"]: key for key in keys}
        self.locations = {f"loc-{number:03}": random.choice(OPERATORS) for number in range(1, LOCATIONS + 1)}
        for line in self.file.read_bytes().splitlines() if self.file is not None and self.file.exists() else ():
            with contextlib.suppress(ValueError):  # a line that was cut off when the process was killed
                self._merge(SESSION.validate_json(line))

    def apply(self, sessions: Iterable[SessionState]) -> int:
        """Merge sessions into the state, and return how many they are."""
        received = list(sessions)
        for session in received:
            self._merge(session)
        if self.file is not None:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with self.file.open("ab") as file:
                file.write(b"\n" + dump_sessions(received))  # the line before may have been cut off
        return len(received)

    def document_of(self, session: SessionState) -> dict[str, Any]:
        """Return a session as the Drive API does. Except for the statuses, its field names are not documented."""
        random = Random(f"{self.seed}:{session.session_id}")  # noqa: S311  nothing secret is drawn
        location_id = random.choice(list(self.locations))
        times = {"startTime": session.started_at, "endTime": session.ended_at, "completedAt": session.completed_at}
        return {
            "sessionId": session.session_id,
            "userId": session.user_id,
            "sessionStatus": session.status_in_drive,
            **{name: format_timestamp(at) for name, at in times.items() if at is not None},
            "locationId": location_id,
            "operator_display_name": self.locations[location_id],
            "chargingKeyId": random.choice(list(self.keys)),
            **({"balanceStatus": "PAID"} if session.status == "COMPLETE" else {}),
        }

    def balance(self, user_id: str) -> Decimal:
        """Return a user's prepaid balance, debts included."""
        return Decimal(Random(f"{self.seed}:{user_id}").randrange(-500, 10_000)) / 100  # noqa: S311  as above

    def invitation(self, fleet_id: str) -> str:
        """Return the invitation code of a fleet."""
        return "".join(Random(f"{self.seed}:{fleet_id}").choices(string.ascii_uppercase, k=8))  # noqa: S311  as above

    def _merge(self, session: SessionState) -> None:
        known = self.sessions.get(session.session_id)
        self.sessions[session.session_id] = known.merge(session) if known else session


def state_from_scenario(scenario: Sequence[SimulatedEvent]) -> SessionState | None:
    """Return what really happened in the session of a scenario; None without an event of a session's course."""
    found: SessionState | None = None
    for event in scenario:
        if event.name not in STATUS_BY_EVENT:
            continue
        payload = json.loads(event.body)["payload"]
        at = parse_timestamp(payload["timestamp"])
        state = SessionState(
            event.session_id,
            payload["userId"],
            STATUS_BY_EVENT[event.name],
            started_at=at if event.name == STARTED else None,
            ended_at=at if event.name == STOPPED else None,
            completed_at=at if event.name == COMPLETE else None,
        )
        found = found.merge(state) if found else state
    return found


def _draw_key(random: Random, number: int, fleets: Sequence[str]) -> dict[str, Any]:
    chance = random.random()
    identifier, check_digit = f"{random.getrandbits(56):014x}", random.randrange(10)
    fleet_id = random.choice([*fleets, None])
    return {
        "keyIdentifier": identifier,
        "validTo": format_timestamp(LONG_OVER + timedelta(days=number) if chance < 0.05 else NEVER_ENDS),  # noqa: PLR2004  one in twenty
        "contractId": f"DE-8PS-C{number + 1:08}-{check_digit}",
        "visualNumber": f"8PS-{number + 1:06}",
        **({"fleetId": fleet_id} if fleet_id else {}),
        "enabled": chance < 0.9,  # noqa: PLR2004  nine in ten
    }
