"""Scenarios of charging sessions, as the bodies that Plugsurfing sends."""

import json
import string
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from random import Random
from types import MappingProxyType
from typing import Any
from uuid import UUID

from ingest.events import (
    CHARGING_RECORD,
    SessionComplete,
    SessionFeeIncurring,
    SessionStarted,
    SessionStartFailed,
    SessionStopFailed,
    SessionStopped,
)
from ingest.wire.envelope import Kind

UNKNOWN_EVENT = "SOMETHING_NEW"
FEE_LEAD = timedelta(minutes=10)
FEE_TYPE = "BLOCKING"
NO_FIELDS: Mapping[str, Any] = MappingProxyType({})

ID_ALPHABET = string.ascii_letters + string.digits

# Of a CDR: how long was charged, how much later it is sent, and the range of prices of a kWh in hundredths.
CHARGING = timedelta(minutes=42)
CDR_AFTER = timedelta(minutes=2)
CENT = Decimal("0.01")
TARIFFS = (
    ("DE", "EUR", 39, 90),
    ("NL", "EUR", 35, 80),
    ("SE", "SEK", 350, 800),
    ("CH", "CHF", 45, 95),
    ("GB", "GBP", 55, 95),
)


@dataclass(frozen=True)
class SimulatedEvent:
    """An event or CDR that Plugsurfing sends."""

    kind: Kind
    name: str
    session_id: str
    body: bytes


@dataclass(frozen=True)
class Participants:
    """The session and the driver of a scenario."""

    session_id: str
    user_id: str


@dataclass(frozen=True)
class Scenario:
    """The course of a session: its events, and when each happens after the start."""

    description: str
    steps: tuple[tuple[timedelta, str], ...]


def _scenario(description: str, *steps: tuple[float, str]) -> Scenario:
    return Scenario(description, tuple((timedelta(minutes=minute), name) for minute, name in steps))


STARTED, STOPPED, COMPLETE = SessionStarted.wire_name, SessionStopped.wire_name, SessionComplete.wire_name
START_FAILED, STOP_FAILED = SessionStartFailed.wire_name, SessionStopFailed.wire_name
FEE_INCURRING = SessionFeeIncurring.wire_name

SCENARIOS: Mapping[str, Scenario] = {
    "session": _scenario("a session from its start to its completion", (0, STARTED), (42, STOPPED), (43, COMPLETE)),
    "fee-warning": _scenario("a session shortly before a fee", (0, STARTED), (95, FEE_INCURRING)),
    "start-failed-then-started": _scenario(
        "a start that fails and then succeeds", (0, START_FAILED), (1, STARTED), (42, STOPPED), (43, COMPLETE)
    ),
    "stop-failed": _scenario("a session whose stop fails", (0, STARTED), (42, STOP_FAILED)),
    "unknown": _scenario("an event with an unknown name", (0, UNKNOWN_EVENT)),
    "cdr": _scenario("a session and its charging detail record", (0, STARTED), (43, COMPLETE), (44, CHARGING_RECORD)),
}


def build_scenario(
    name: str,
    participants: Participants,
    *,
    begins_at: datetime | None = None,
    now: datetime,
    sample: Mapping[str, Any] = NO_FIELDS,
) -> tuple[SimulatedEvent, ...]:
    """Return the events of a scenario, or the one event of that wire name; by default the last one happens now.

    `sample` has the further fields of an event that only a plugin knows.
    """
    scenario = SCENARIOS.get(name) or _scenario("one event", (0, name))
    begins_at = begins_at or now - scenario.steps[-1][0]
    return tuple(make_event(name, participants, begins_at + after, sample) for after, name in scenario.steps)


def make_event(
    name: str, participants: Participants, at: datetime, sample: Mapping[str, Any] = NO_FIELDS
) -> SimulatedEvent:
    """Return an event in its wire format."""
    if name == CHARGING_RECORD:
        return SimulatedEvent(Kind.CDRS, name, participants.session_id, _body(_charging_record(participants, at)))
    payload = {"userId": participants.user_id, "sessionId": participants.session_id, "timestamp": format_timestamp(at)}
    if name == FEE_INCURRING:  # has no user, as documented
        payload = {
            "sessionId": participants.session_id,
            "timestamp": format_timestamp(at),
            "feeWillApplyFrom": format_timestamp(at + FEE_LEAD),
            "feeType": FEE_TYPE,
        }
    body = _body({"event": name, "payload": {**payload, **sample}})
    return SimulatedEvent(Kind.EVENTS, name, participants.session_id, body)


def random_participants(random: Random) -> Participants:
    """Draw a driver, and a session id that looks like Plugsurfing's."""
    return Participants("".join(random.choices(ID_ALPHABET, k=11)), f"driver-{random.randrange(10_000):04}")


def format_timestamp(at: datetime) -> str:
    """Format a time as Plugsurfing does, with a fraction only if there is one."""
    at = at.astimezone(UTC)
    return at.isoformat(timespec="milliseconds" if at.microsecond else "seconds").replace("+00:00", "Z")


def conflicting_cdr(cdr: SimulatedEvent) -> SimulatedEvent:
    """Return a CDR with the same request id and another price."""
    document = json.loads(cdr.body)
    document["cost"]["total"] = str(Decimal(document["cost"]["total"]) + 1)
    return replace(cdr, body=_body(document))


def _charging_record(participants: Participants, at: datetime) -> dict[str, Any]:
    # The schema is not public: documented are a request id, user, session and location. Everything depends on the
    # session alone, so that a CDR that is sent again has the same bytes.
    random = Random(participants.session_id)  # noqa: S311  nothing secret is drawn
    country, currency, least, most = random.choice(TARIFFS)
    energy = Decimal(random.randrange(2_000, 80_000)) / 1000
    price = Decimal(random.randrange(least, most)) / 100
    return {
        "requestId": str(UUID(int=random.getrandbits(128), version=4)),
        "userId": participants.user_id,
        "session": {
            "id": participants.session_id,
            "startedAt": format_timestamp(at - CDR_AFTER - CHARGING),
            "stoppedAt": format_timestamp(at - CDR_AFTER),
            "energyKwh": str(energy),
        },
        "cost": {"total": str((energy * price).quantize(CENT)), "currency": currency},
        "location": {"id": f"loc-{random.randrange(1000):03}", "operator": "Example Charging", "country": country},
        "createdAt": format_timestamp(at),
    }


def _body(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, ensure_ascii=False).encode()
