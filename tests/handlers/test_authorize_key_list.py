from datetime import timedelta

import pytest

from handlers import Allowed
from handlers.authorize_key_list import must_be_listed
from handlers.kit.policies import ChargingKeySnapshot, Indeterminate
from handlers.kit.testing import DEFAULT_NOW, authorization_request, policy_context

IDENTIFIER = "04a1b2c3"


def key(**parts):
    return ChargingKeySnapshot(**{"identifier": IDENTIFIER, "enabled": True, "read_at": DEFAULT_NOW, **parts})


def decided(received, *keys, **context):
    decision = must_be_listed(authorization_request(key=received), policy_context(keys=keys, **context))
    return decision and decision.allowed


@pytest.mark.parametrize(
    "received",
    ["04a1b2c3", "04A1B2C3", "04:A1:B2:C3", "04-a1-b2-c3", " 04 A1 B2 C3 ", "0x04A1B2C3", "C3B2A104", "c3:b2:a1:04"],
)
def test_a_listed_key_passes_in_any_spelling(received):
    assert decided(received, key()) is None


@pytest.mark.parametrize(
    ("order", "received", "answer"),
    [
        ("little", "04A1B2C3", None),
        ("little", "C3B2A104", Allowed.NOT_ALLOWED),
        ("big", "C3B2A104", None),
        ("big", "04A1B2C3", Allowed.NOT_ALLOWED),
    ],
)
def test_the_order_of_the_bytes_can_be_set(order, received, answer):
    assert decided(received, key(), settings={"authorize_key_bytes": order}) is answer


def test_a_key_that_is_not_hexadecimal_has_one_spelling():
    listed = key(identifier="DE-XYZ-C12345-6")
    assert decided("DE-XYZ-C12345-6", listed) is None
    assert decided("de-xyz-C12345-6", listed) is None
    assert decided("6-54321C-ZYX-ED", listed) is Allowed.NOT_ALLOWED


@pytest.mark.parametrize(
    ("listed", "answer"),
    [
        (key(enabled=False), Allowed.BLOCKED),
        (key(valid_to=DEFAULT_NOW), Allowed.EXPIRED),
        (key(valid_to=DEFAULT_NOW - timedelta(days=1)), Allowed.EXPIRED),
        (key(enabled=False, valid_to=DEFAULT_NOW), Allowed.BLOCKED),
        (key(valid_to=DEFAULT_NOW + timedelta(seconds=1)), None),
        (key(identifier="04a1b2c4"), Allowed.NOT_ALLOWED),
    ],
)
def test_a_key_must_be_listed_enabled_and_valid_now(listed, answer):
    assert decided("04a1b2c3", listed) is answer


def test_with_an_empty_list_no_key_may_charge():
    assert decided("04a1b2c3") is Allowed.NOT_ALLOWED


@pytest.mark.parametrize(
    ("received", "context"),
    [
        (None, {"keys": (key(),)}),
        ("04a1b2c3", {"keys": None}),
        ("04a1b2c4", {"keys": (key(read_at=DEFAULT_NOW - timedelta(days=2)),)}),
    ],
    ids=["no key in the request", "never read", "read too long ago"],
)
def test_an_indeterminate_policy_abstains_or_fails_by_the_setting(received, context):
    assert must_be_listed(authorization_request(key=received), policy_context(**context)) is None
    with pytest.raises(Indeterminate):
        must_be_listed(
            authorization_request(key=received), policy_context(**context, settings={"authorize_without_facts": "fail"})
        )


def test_an_old_list_counts_for_authorize_keys_stale():
    old = key(read_at=DEFAULT_NOW - timedelta(hours=23))
    assert decided("04a1b2c4", old) is Allowed.NOT_ALLOWED


@pytest.mark.parametrize(
    ("request_parts", "answer"),
    [
        ({"reference_id": "8PS-1"}, None),
        ({"reference_id": "8PS-2"}, Allowed.NOT_ALLOWED),
        ({"key": "an-internal-id", "reference_id": "8PS-1"}, None),
        ({"key": "ff", "reference_id": "8PS-2"}, Allowed.NOT_ALLOWED),
    ],
)
def test_a_card_is_listed_by_the_number_that_is_printed_on_it(request_parts, answer):
    ctx = policy_context(keys=[key(visual_number="8PS-1")])
    decision = must_be_listed(authorization_request(**request_parts), ctx)
    assert (decision and decision.allowed) is answer
