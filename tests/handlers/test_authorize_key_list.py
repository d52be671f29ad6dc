from datetime import timedelta

import pytest

from handlers import Allowed
from handlers.authorize_key_list import must_be_listed
from handlers.kit.policies import ChargingKeySnapshot, Indeterminate
from handlers.kit.testing import DEFAULT_NOW, authorization_request, policy_context

AS_DRIVE_WRITES_IT = "04a1b2c3"


def key(**parts):
    return ChargingKeySnapshot(**{"identifier": AS_DRIVE_WRITES_IT, "enabled": True, "read_at": DEFAULT_NOW, **parts})


def said(asked, *keys, **context):
    decision = must_be_listed(authorization_request(key=asked), policy_context(keys=keys, **context))
    return decision and decision.allowed


@pytest.mark.parametrize(
    "asked",
    ["04a1b2c3", "04A1B2C3", "04:A1:B2:C3", "04-a1-b2-c3", " 04 A1 B2 C3 ", "0x04A1B2C3", "C3B2A104", "c3:b2:a1:04"],
)
def test_a_listed_key_passes_however_it_is_spelt(asked):
    assert said(asked, key()) is None


@pytest.mark.parametrize(
    ("order", "asked", "answer"),
    [
        ("little", "04A1B2C3", None),
        ("little", "C3B2A104", Allowed.NOT_ALLOWED),
        ("big", "C3B2A104", None),
        ("big", "04A1B2C3", Allowed.NOT_ALLOWED),
    ],
)
def test_the_order_of_the_bytes_can_be_settled(order, asked, answer):
    assert said(asked, key(), settings={"authorize_key_bytes": order}) is answer


def test_a_key_that_is_not_hexadecimal_is_the_same_only_as_itself():
    listed = key(identifier="DE-XYZ-C12345-6")
    assert said("DE-XYZ-C12345-6", listed) is None
    assert said("6-54321C-ZYX-ED", listed) is Allowed.NOT_ALLOWED


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
    assert said("04a1b2c3", listed) is answer


def test_a_list_without_keys_lets_nobody_charge():
    assert said("04a1b2c3") is Allowed.NOT_ALLOWED


@pytest.mark.parametrize(
    ("asked", "context"),
    [
        (None, {"keys": (key(),)}),
        ("04a1b2c3", {"keys": None}),
        ("04a1b2c4", {"keys": (key(read_at=DEFAULT_NOW - timedelta(days=2)),)}),
    ],
    ids=["no key in the question", "never read", "read too long ago"],
)
def test_where_too_little_is_known_it_passes_or_fails_as_it_is_set(asked, context):
    assert must_be_listed(authorization_request(key=asked), policy_context(**context)) is None
    with pytest.raises(Indeterminate):
        must_be_listed(
            authorization_request(key=asked), policy_context(**context, settings={"authorize_without_facts": "fail"})
        )


def test_an_old_list_is_good_for_as_long_as_it_is_set():
    old = key(read_at=DEFAULT_NOW - timedelta(hours=23))
    assert said("04a1b2c4", old) is Allowed.NOT_ALLOWED
