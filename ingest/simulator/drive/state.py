"""What really happened: the sessions, keys, fleets, balances and locations that the simulated Drive API knows of.

Sessions are those that the simulator tells of; whatever part of its events is dropped, they are here whole. The rest is
drawn from a seed: the same seed makes the same world.
"""

import contextlib
import json
import string
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import Any, Self

from ingest.simulator.scenarios import (
    COMPLETE,
    START_FAILED,
    STARTED,
    STOP_FAILED,
    STOPPED,
    SimulatedEvent,
    format_timestamp,
)
from ingest.wire.envelope import Kind
from ingest.wire.timestamps import read_timestamp

KEYS, FLEETS, LOCATIONS = 250, 3, 20
OPERATORS = ("Example Charging", "Volt & Sons", "Stadtstrom", "Fjord Lading")
NEVER_ENDS = datetime(2099, 12, 31, 23, 59, 59, tzinfo=UTC)
LONG_OVER = datetime(2020, 1, 31, 23, 59, 59, tzinfo=UTC)

WAITING = "WAITING_TO_START"
STATUS_BY_EVENT = {START_FAILED: "START_FAILED", STARTED: "STARTED", STOP_FAILED: "STOP_FAILED", STOPPED: "STOPPED"}
# From the least to the most final, as far as a session that is told of in parts goes.
STATUS_ORDER = (WAITING, "START_FAILED", "STARTED", "STOP_FAILED", "STOPPED", "COMPLETE")
# The events say these, the Drive API does not.
IN_DRIVE = {"START_FAILED": WAITING, "STOPPED": "STARTED"}


@dataclass(frozen=True)
class SessionState:
    """What really happened in one session."""

    session_id: str
    user_id: str
    status: str = WAITING
    started_at: datetime | None = None
    ended_at: datetime | None = None
    completed_at: datetime | None = None

    @property
    def status_in_drive(self) -> str:
        """The status as the Drive API says it, which has been seen to say four only."""
        return IN_DRIVE.get(self.status, self.status)

    def merge(self, other: "SessionState") -> "SessionState":
        """Put together what is true of one session according to two stories."""
        return replace(
            other,
            status=max(self.status, other.status, key=STATUS_ORDER.index),
            started_at=min(filter(None, (self.started_at, other.started_at)), default=None),
            ended_at=max(filter(None, (self.ended_at, other.ended_at)), default=None),
            completed_at=max(filter(None, (self.completed_at, other.completed_at)), default=None),
        )

    def to_document(self) -> dict[str, str | None]:
        """Write it as JSON can hold it."""
        times = {name: getattr(self, name) for name in ("started_at", "ended_at", "completed_at")}
        told = {name: at and at.astimezone(UTC).isoformat() for name, at in times.items()}
        return {"session_id": self.session_id, "user_id": self.user_id, "status": self.status, **told}

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Self:
        """Read it back. Raises ValueError or KeyError for what is none."""
        if document["status"] not in STATUS_ORDER:
            raise ValueError("no such status")
        times = {name: document.get(name) for name in ("started_at", "ended_at", "completed_at")}
        return cls(
            str(document["session_id"]),
            str(document["user_id"]),
            str(document["status"]),
            **{name: None if at is None else read_timestamp(at) for name, at in times.items()},
        )


@dataclass(frozen=True)
class Key:
    """A charging key of the organization."""

    identifier: str
    contract_id: str
    visual_number: str
    fleet_id: str | None
    valid_to: datetime
    enabled: bool


@dataclass(frozen=True)
class Location:
    """A charging location."""

    location_id: str
    operator: str


@dataclass
class DriveState:
    """Everything that the simulated Drive API holds. With a file, sessions outlive the process."""

    seed: int = 0
    file: Path | None = None
    sessions: dict[str, SessionState] = field(default_factory=dict)
    keys: dict[str, Key] = field(default_factory=dict)
    fleets: dict[str, str | None] = field(default_factory=dict)
    places: dict[str, Location] = field(default_factory=dict)
    tokens: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    """What was pushed to Roam OCPI, by `country/party/uid`."""

    def __post_init__(self) -> None:
        """Draw what the seed makes, and read what the file has kept."""
        random = Random(self.seed)  # noqa: S311  nothing secret is drawn
        self.fleets = {**{f"fleet-{number + 1}": f"Fleet {number + 1}" for number in range(FLEETS)}, **self.fleets}
        drawn = [_key(random, number, list(self.fleets)) for number in range(KEYS)]
        self.keys = {key.identifier: key for key in drawn} | self.keys
        places = [Location(f"loc-{number + 1:03}", random.choice(OPERATORS)) for number in range(LOCATIONS)]
        self.places = {place.location_id: place for place in places} | self.places
        if self.file is not None and self.file.exists():
            for line in self.file.read_text("utf-8", errors="replace").splitlines():
                with contextlib.suppress(ValueError, KeyError, TypeError):  # a line that was cut off when it was killed
                    self._join(SessionState.from_document(json.loads(line)))

    def apply(self, truths: Iterable[SessionState]) -> int:
        """Take in what really happens in sessions, and return how many these are."""
        learned = list(truths)
        for truth in learned:
            self._join(truth)
        if self.file is not None:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with self.file.open("a", encoding="utf-8") as file:
                # The break comes first, too: the line before may have been cut off.
                file.write("\n" + "".join(f"{json.dumps(truth.to_document())}\n" for truth in learned))
        return len(learned)

    def document_of(self, truth: SessionState) -> dict[str, Any]:
        """Write a session as the Drive API does. But for the statuses, the fields' names are not documented."""
        random = Random(f"{self.seed}:{truth.session_id}")  # noqa: S311  nothing secret is drawn
        place = random.choice(list(self.places.values()))
        times = {"startTime": truth.started_at, "endTime": truth.ended_at, "completedAt": truth.completed_at}
        return {
            "sessionId": truth.session_id,
            "userId": truth.user_id,
            "sessionStatus": truth.status_in_drive,
            **{name: format_timestamp(at) for name, at in times.items() if at is not None},
            "locationId": place.location_id,
            "operator_display_name": place.operator,
            "chargingKeyId": random.choice(list(self.keys)),
            **({"balanceStatus": "PAID"} if truth.status == "COMPLETE" else {}),
        }

    def balance(self, user_id: str) -> Decimal:
        """Give a user's prepaid balance: anything from a debt to a fortune, always the same."""
        return Decimal(Random(f"{self.seed}:{user_id}").randrange(-500, 10_000)) / 100  # noqa: S311  as above

    def invitation(self, fleet_id: str) -> str:
        """Give the invitation code of a fleet."""
        return "".join(Random(f"{self.seed}:{fleet_id}").choices(string.ascii_uppercase, k=8))  # noqa: S311  as above

    def _join(self, truth: SessionState) -> None:
        known = self.sessions.get(truth.session_id)
        self.sessions[truth.session_id] = known.merge(truth) if known else truth


def state_from_scenario(story: Sequence[SimulatedEvent]) -> SessionState | None:
    """Say what really happened in a session of which all this could be told; None if that is no session's course."""
    found: SessionState | None = None
    for telling in story:
        if telling.kind is not Kind.EVENTS or telling.name not in {*STATUS_BY_EVENT, COMPLETE}:
            continue
        payload = json.loads(telling.body)["payload"]
        at = read_timestamp(payload["timestamp"])
        said = SessionState(
            telling.session_id,
            payload["userId"],
            STATUS_BY_EVENT.get(telling.name, "COMPLETE"),
            started_at=at if telling.name == STARTED else None,
            ended_at=at if telling.name == STOPPED else None,
            completed_at=at if telling.name == COMPLETE else None,
        )
        found = found.merge(said) if found else said
    return found


def _key(random: Random, number: int, fleets: Sequence[str]) -> Key:
    chance = random.random()
    return Key(
        identifier=f"{random.getrandbits(56):014x}",
        contract_id=f"DE-8PS-C{number + 1:08}-{random.randrange(10)}",
        visual_number=f"8PS-{number + 1:06}",
        fleet_id=random.choice([*fleets, None]),
        valid_to=LONG_OVER + timedelta(days=number) if chance < 0.05 else NEVER_ENDS,  # noqa: PLR2004  one in twenty
        enabled=chance < 0.9,  # noqa: PLR2004  nine in ten
    )
