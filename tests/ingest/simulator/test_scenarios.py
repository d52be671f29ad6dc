"""Events and CDRs are as documented, and depend on nothing but the scenario."""

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from random import Random

import pytest

from ingest.events import WIRE_NAMES, SessionFeeIncurring, UnknownEvent, decode
from ingest.simulator.scenarios import (
    SCENARIOS,
    Participants,
    build_scenario,
    conflicting_cdr,
    format_timestamp,
    make_event,
    random_participants,
)
from ingest.wire.envelope import Kind
from tests.ingest.simulator.samples import NOW, PARTICIPANTS


@pytest.mark.parametrize("name", sorted(WIRE_NAMES))
def test_every_known_event_is_as_documented(name):
    event = decode(Kind.EVENTS, make_event(name, PARTICIPANTS, NOW).body)
    assert type(event) is WIRE_NAMES[name]
    assert event.session_id == "L60XMxWy0oP"
    assert event.at == NOW


def test_the_documented_examples_are_reproduced_byte_by_byte():
    started = make_event("SESSION_STARTED", PARTICIPANTS, datetime(2025, 6, 12, 10, 56, 51, tzinfo=UTC))
    assert started.body.decode() == (
        '{"event": "SESSION_STARTED", "payload": '
        '{"userId": "user1", "sessionId": "L60XMxWy0oP", "timestamp": "2025-06-12T10:56:51Z"}}'
    )
    assert make_event("SESSION_FEE_INCURRING", PARTICIPANTS, NOW).body.decode() == (
        '{"event": "SESSION_FEE_INCURRING", "payload": {"sessionId": "L60XMxWy0oP", '
        '"timestamp": "2025-10-15T08:52:48Z", "feeWillApplyFrom": "2025-10-15T09:02:48Z", "feeType": "BLOCKING"}}'
    )


def test_a_fee_event_has_no_user():
    event = decode(Kind.EVENTS, make_event("SESSION_FEE_INCURRING", PARTICIPANTS, NOW).body)
    assert isinstance(event, SessionFeeIncurring)
    assert event.user_id is None


def test_an_unknown_name_is_an_event_too():
    (only,) = build_scenario("SESSION_TELEPORTED", PARTICIPANTS, now=NOW)
    event = decode(only.kind, only.body)
    assert isinstance(event, UnknownEvent)
    assert event.name == "SESSION_TELEPORTED"


def test_a_cdr_depends_on_its_session_only():
    sent = [make_event("CDR", Participants(session_id, "driver"), NOW).body for session_id in ("one", "one", "two")]
    assert sent[0] == sent[1]
    one, two = (json.loads(body) for body in sent[1:])
    assert one["requestId"] != two["requestId"]
    assert one["cost"] != two["cost"]


def test_a_conflicting_cdr_has_the_same_request_id_and_another_price():
    first = make_event("CDR", PARTICIPANTS, NOW)
    other = conflicting_cdr(first)
    before, after = json.loads(first.body), json.loads(other.body)
    assert Decimal(after["cost"]["total"]) - Decimal(before["cost"]["total"]) == 1
    assert {**after, "cost": before["cost"]} == before


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_scenario_ends_now_or_begins_at_a_given_time(name):
    steps = SCENARIOS[name].steps
    ends_now, begins_then = (
        build_scenario(name, PARTICIPANTS, now=NOW),
        build_scenario(name, PARTICIPANTS, begins_at=NOW, now=NOW + timedelta(days=1)),
    )
    assert format_timestamp(NOW) in ends_now[-1].body.decode()
    assert format_timestamp(NOW) in begins_then[0].body.decode()
    assert [sent.name for sent in ends_now] == [name for _, name in steps]


def test_the_same_seed_draws_the_same_participants():
    assert random_participants(Random(3)) == random_participants(Random(3)) != random_participants(Random(4))


def test_a_body_is_json_even_with_odd_ids():
    participants = Participants('"\\\n\x00', "Ωμέγα")
    assert json.loads(make_event("SESSION_STARTED", participants, NOW).body)["payload"]["sessionId"] == '"\\\n\x00'
