"""The demo: its findings, and its lines."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from ingest.simulator.faults import PlannedRequest
from ingest.simulator.requests import RequestSigner, SigningKeyChoice
from ingest.simulator.scenarios import Participants, make_event
from ingest.simulator.sender import SimulatorResponse
from ingest.wire.signature import SigningKeys
from workers.dev import demo
from workers.dev.demo import AFTER_WARNING, BEFORE_WARNING, DemoState, format_exchange, wait_for_state
from workers.ledger.deliveries import DeliveryRow
from workers.ledger.pushes import PushRow
from workers.ledger.states import DeliveryState, PushState

NOW = datetime(2025, 10, 15, 8, 52, 48, tzinfo=UTC)
PARTICIPANTS = Participants("L60XMxWy0oP", "user1")


def delivery(event: str, duplicates: int = 0) -> DeliveryRow:
    rest = dict.fromkeys(DeliveryRow.__dataclass_fields__)
    return DeliveryRow(**rest | {"event": event, "state": DeliveryState.SETTLED, "duplicates": duplicates, "runs": ()})


def push(state: PushState) -> PushRow:
    return PushRow(**dict.fromkeys(PushRow.__dataclass_fields__) | {"state": state})


GOOD = DemoState(
    session_id=PARTICIPANTS.session_id,
    status="COMPLETE",
    deliveries=tuple(
        delivery(name, duplicates=int(name == "SESSION_STARTED"))
        for name in dict.fromkeys(step.name for step in (*BEFORE_WARNING, *AFTER_WARNING))
    ),
    pushes=(push(PushState.SENT),),
)


def untrue(state: DemoState) -> list[str]:
    return [finding for finding, is_true in state.findings().items() if not is_true]


def test_all_findings_of_a_good_session_are_true():
    assert untrue(GOOD) == []


@pytest.mark.parametrize(
    ("state", "finding"),
    [
        (replace(GOOD, status="STOPPED"), "COMPLETE"),
        (replace(GOOD, status=None), "COMPLETE"),
        (replace(GOOD, pushes=()), "one warning"),
        (replace(GOOD, pushes=(push(PushState.WAITING),)), "one warning"),
        (replace(GOOD, pushes=GOOD.pushes * 2), "one warning"),
        (replace(GOOD, deliveries=(delivery("SESSION_STARTED"), *GOOD.deliveries[1:])), "repeated"),
        (
            replace(GOOD, deliveries=(*GOOD.deliveries[:-1], replace(GOOD.deliveries[-1], state=DeliveryState.DEAD))),
            "settled",
        ),
        (replace(GOOD, deliveries=GOOD.deliveries[:-1]), "settled"),
    ],
)
def test_what_went_wrong_is_found(state, finding):
    (found,) = untrue(state)
    assert finding in found


def test_an_unknown_event_that_was_lost_is_found():
    known = tuple(row for row in GOOD.deliveries if row.event != "SOMETHING_NEW")
    assert any("unknown" in finding for finding in untrue(replace(GOOD, deliveries=known)))


def test_the_timeout_returns_the_last_state(monkeypatch):
    monkeypatch.setattr(demo, "POLL_INTERVAL", timedelta(milliseconds=10))
    monkeypatch.setattr(demo, "read_state", lambda _engine, _participants: GOOD)
    assert asyncio.run(wait_for_state(None, PARTICIPANTS, lambda _: False, timedelta(milliseconds=50))) is GOOD


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ({"status": 200}, "→ 200 kept    4 ms"),
        ({"status": 200, "duplicate": True}, "→ 200 known   4 ms"),
        ({"status": 503}, "→ 503 not kept   4 ms"),
        ({"problem": "ConnectError"}, "→ ConnectError not kept   4 ms"),
    ],
)
def test_an_exchange_is_one_line(answer, words):
    request = RequestSigner(SigningKeys(b"key"), SigningKeyChoice.CURRENT, required=True).request(
        PlannedRequest(make_event("X", PARTICIPANTS, NOW)), at=NOW
    )
    printed = format_exchange(BEFORE_WARNING[0], SimulatorResponse(request, timedelta(milliseconds=4), **answer))
    assert words in printed
    assert printed.endswith("a driver plugs in")
