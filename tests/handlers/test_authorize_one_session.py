import pytest

from handlers import Allowed
from handlers.authorize_one_session import must_not_charge_elsewhere
from handlers.kit.policies import ChargingKeySnapshot, Indeterminate
from handlers.kit.testing import authorization_request, policy_context

KEY = ChargingKeySnapshot("04a1b2c3", enabled=True, contract_id="DE-ABC-C1")


def decided(incoming, open_sessions, **context):
    decision = must_not_charge_elsewhere(incoming, policy_context(keys=[KEY], open_sessions=open_sessions, **context))
    return decision and decision.allowed


@pytest.mark.parametrize(
    ("open_sessions", "answer"),
    [
        ({}, None),
        ({"04a1b2c3": ["s1"]}, Allowed.NOT_ALLOWED),
        ({"DE-ABC-C1": ["s1"]}, Allowed.NOT_ALLOWED),
        ({"04a1b2c4": ["s1"], "DE-ABC-C2": ["s2"]}, None),
    ],
    ids=["none", "of the key", "of its driver", "of others"],
)
def test_a_key_and_its_owner_have_one_session_at_a_time(open_sessions, answer):
    assert decided(authorization_request(key="04A1B2C3"), open_sessions) is answer


def test_the_requested_session_does_not_count():
    assert (
        decided(authorization_request(key="04a1b2c3", session_id="s1"), {"04a1b2c3": ["s1"], "DE-ABC-C1": ["s1"]})
        is None
    )
    assert decided(authorization_request(key="04a1b2c3", session_id="s2"), {"04a1b2c3": ["s1"]}) is Allowed.NOT_ALLOWED


def test_a_driver_without_a_key_is_found_in_the_document():
    incoming = authorization_request(document={"userId": "user1"})
    assert decided(incoming, {"user1": ["s1"]}, settings={"authorize_holder": "/userId"}) is Allowed.NOT_ALLOWED


@pytest.mark.parametrize(
    ("incoming", "open_sessions"),
    [(authorization_request(key="04a1b2c3"), None), (authorization_request(), {})],
    ids=["no ledger", "no key and no owner"],
)
def test_an_indeterminate_policy_abstains_or_fails_by_the_setting(incoming, open_sessions):
    assert decided(incoming, open_sessions) is None
    with pytest.raises(Indeterminate):
        decided(incoming, open_sessions, settings={"authorize_without_facts": "fail"})
