import pytest

from handlers import Allowed
from handlers.authorize_one_session import must_not_charge_elsewhere
from handlers.kit.policies import ChargingKeySnapshot, Indeterminate
from handlers.kit.testing import authorization_request, policy_context

KEY = ChargingKeySnapshot("04a1b2c3", enabled=True, contract_id="DE-ABC-C1")


def said(asked, running, **context):
    decision = must_not_charge_elsewhere(asked, policy_context(keys=[KEY], open_sessions=running, **context))
    return decision and decision.allowed


@pytest.mark.parametrize(
    ("running", "answer"),
    [
        ({}, None),
        ({"04a1b2c3": ["s1"]}, Allowed.NOT_ALLOWED),
        ({"DE-ABC-C1": ["s1"]}, Allowed.NOT_ALLOWED),
        ({"04a1b2c4": ["s1"], "DE-ABC-C2": ["s2"]}, None),
    ],
    ids=["none", "of the key", "of its driver", "of others"],
)
def test_a_key_and_its_driver_have_one_session_at_a_time(running, answer):
    assert said(authorization_request(key="04A1B2C3"), running) is answer


def test_the_session_in_question_does_not_hold_itself_up():
    assert (
        said(authorization_request(key="04a1b2c3", session_id="s1"), {"04a1b2c3": ["s1"], "DE-ABC-C1": ["s1"]}) is None
    )
    assert said(authorization_request(key="04a1b2c3", session_id="s2"), {"04a1b2c3": ["s1"]}) is Allowed.NOT_ALLOWED


def test_a_driver_without_a_key_in_the_question_is_known_by_its_document():
    asked = authorization_request(document={"userId": "user1"})
    assert said(asked, {"user1": ["s1"]}, settings={"authorize_holder": "/userId"}) is Allowed.NOT_ALLOWED


@pytest.mark.parametrize(
    ("asked", "running"),
    [(authorization_request(key="04a1b2c3"), None), (authorization_request(), {})],
    ids=["no ledger", "nobody named"],
)
def test_where_too_little_is_known_it_passes_or_fails_as_it_is_set(asked, running):
    assert said(asked, running) is None
    with pytest.raises(Indeterminate):
        said(asked, running, settings={"authorize_without_facts": "fail"})
