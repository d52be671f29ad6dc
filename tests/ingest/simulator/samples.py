"""A session, a signer and scenarios for the simulator's tests."""

from datetime import UTC, datetime
from random import Random

from ingest.simulator.faults import PlannedRequest
from ingest.simulator.requests import RequestSigner, SigningKeyChoice
from ingest.simulator.scenarios import Participants, SimulatedEvent, build_scenario, make_event, random_participants
from ingest.wire.signature import SigningKeys

NOW = datetime(2025, 10, 15, 8, 52, 48, tzinfo=UTC)
PARTICIPANTS = Participants("L60XMxWy0oP", "user1")
KEYS = SigningKeys(b"the current key", b"the next key")
CURRENT = RequestSigner(KEYS, SigningKeyChoice.CURRENT, required=True)
STARTED = PlannedRequest(make_event("SESSION_STARTED", PARTICIPANTS, NOW))


def scenarios(count: int, name: str = "session") -> list[tuple[SimulatedEvent, ...]]:
    """Build a scenario for each of some sessions."""
    random = Random(1)
    return [build_scenario(name, random_participants(random), now=NOW) for _ in range(count)]
