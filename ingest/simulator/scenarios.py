"""What Plugsurfing says about charging sessions, as bodies of requests."""

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

ID_ALPHABET = string.ascii_letters + string.digits

# In a CDR, how long was charged, and how much later it is told; prices of a kWh in hundredths, from and to.
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
    """One thing that Plugsurfing says."""

    kind: Kind
    name: str
    session_id: str
    body: bytes


@dataclass(frozen=True)
class Participants:
    """Whom a story is about."""

    session_id: str
    user_id: str


@dataclass(frozen=True)
class Scenario:
    """A story to be told of any session: what happens, and how long after its beginning."""

    sentence: str
    beats: tuple[tuple[timedelta, str], ...]


def _scenario(sentence: str, *beats: tuple[float, str]) -> Scenario:
    return Scenario(sentence, tuple((timedelta(minutes=minute), name) for minute, name in beats))


STARTED, STOPPED, COMPLETE = SessionStarted.wire_name, SessionStopped.wire_name, SessionComplete.wire_name
START_FAILED, STOP_FAILED = SessionStartFailed.wire_name, SessionStopFailed.wire_name
FEE_INCURRING = SessionFeeIncurring.wire_name

SCENARIOS: Mapping[str, Scenario] = MappingProxyType(
    {
        "session": _scenario("a session from its start to its price", (0, STARTED), (42, STOPPED), (43, COMPLETE)),
        "fee-warning": _scenario("a session about to cost a fee", (0, STARTED), (95, FEE_INCURRING)),
        "start-failed-then-started": _scenario(
            "a start that fails and then does not", (0, START_FAILED), (1, STARTED), (42, STOPPED), (43, COMPLETE)
        ),
        "stop-failed": _scenario("a session that does not stop when told to", (0, STARTED), (42, STOP_FAILED)),
        "unknown": _scenario("an event that nobody has heard of", (0, UNKNOWN_EVENT)),
        "cdr": _scenario(
            "a session and its charging detail record", (0, STARTED), (43, COMPLETE), (44, CHARGING_RECORD)
        ),
    }
)


def build_scenario(
    about: str, cast: Participants, *, begins_at: datetime | None = None, now: datetime
) -> tuple[SimulatedEvent, ...]:
    """Tell a scenario, or the one event of that name, known or not; by default its last event is happening now."""
    scenario = SCENARIOS.get(about) or _scenario("one event", (0, about))
    begins_at = begins_at or now - scenario.beats[-1][0]
    return tuple(telling(name, cast, begins_at + after) for after, name in scenario.beats)


def telling(name: str, cast: Participants, at: datetime) -> SimulatedEvent:
    """Say that something happened, in the words of the wire."""
    if name == CHARGING_RECORD:
        return SimulatedEvent(Kind.CDRS, name, cast.session_id, _body(_charging_record(cast, at)))
    payload = {"userId": cast.user_id, "sessionId": cast.session_id, "timestamp": format_timestamp(at)}
    if name == FEE_INCURRING:  # names no user, as documented
        payload = {
            "sessionId": cast.session_id,
            "timestamp": format_timestamp(at),
            "feeWillApplyFrom": format_timestamp(at + FEE_LEAD),
            "feeType": FEE_TYPE,
        }
    return SimulatedEvent(Kind.EVENTS, name, cast.session_id, _body({"event": name, "payload": payload}))


def random_participants(random: Random) -> Participants:
    """Draw a session id that looks like Plugsurfing's, and a driver."""
    return Participants("".join(random.choices(ID_ALPHABET, k=11)), f"driver-{random.randrange(10_000):04}")


def format_timestamp(at: datetime) -> str:
    """Write a time as Plugsurfing does, with a fraction only if there is one."""
    at = at.astimezone(UTC)
    return at.isoformat(timespec="milliseconds" if at.microsecond else "seconds").replace("+00:00", "Z")


def conflicting_cdr(told: SimulatedEvent) -> SimulatedEvent:
    """Say the same CDR once more, at another price: one request id, other bytes."""
    document = json.loads(told.body)
    document["cost"]["total"] = str(Decimal(document["cost"]["total"]) + 1)
    return replace(told, body=_body(document))


def _charging_record(cast: Participants, at: datetime) -> dict[str, Any]:
    # The schema is not public. Documented are a request id, and who, what and where: the rest is made up. It depends on
    # the session alone, so that a CDR that is told again is the same.
    random = Random(cast.session_id)  # noqa: S311  nothing secret is drawn
    country, currency, least, most = random.choice(TARIFFS)
    energy = Decimal(random.randrange(2_000, 80_000)) / 1000
    price = Decimal(random.randrange(least, most)) / 100
    return {
        "requestId": str(UUID(int=random.getrandbits(128), version=4)),
        "userId": cast.user_id,
        "session": {
            "id": cast.session_id,
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
