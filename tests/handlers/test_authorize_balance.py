from datetime import timedelta
from decimal import Decimal

import pytest

from handlers import Allowed
from handlers.authorize_balance import must_have_credit
from handlers.kit.policies import BalanceSnapshot, ChargingKeySnapshot, Indeterminate
from handlers.kit.testing import DEFAULT_NOW, authorization_request, policy_context

KEY = ChargingKeySnapshot("04a1b2c3", enabled=True, contract_id="DE-ABC-C1")


def said(asked, least="5", holder="contract", **context):
    settings = {"authorize_least_balance": Decimal(least), "authorize_holder": holder}
    decision = must_have_credit(asked, policy_context(settings=settings | context.pop("settings", {}), **context))
    return decision and decision.allowed


@pytest.mark.parametrize(
    ("amount", "least", "answer"),
    [
        ("5", "5", None),
        ("5.00", "5", None),
        ("4.999999999999999999999999999999", "5", Allowed.NO_CREDIT),
        ("-0.01", "0", Allowed.NO_CREDIT),
        ("0.1", "0.10000000000000000001", Allowed.NO_CREDIT),
    ],
)
def test_the_balance_is_compared_to_its_last_digit(amount, least, answer):
    balances = {"DE-ABC-C1": Decimal(amount)}
    assert said(authorization_request(key="04A1B2C3"), least, keys=[KEY], balances=balances) is answer


@pytest.mark.parametrize(
    ("holder", "document", "user_id"),
    [
        ("contract", {}, "DE-ABC-C1"),
        ("key", {}, "04a1b2c3"),
        ("/driver/id", {"driver": {"id": "user1"}}, "user1"),
        ("/driver", {"driver": 17}, "17"),
    ],
)
def test_whose_key_it_is_is_found_where_the_settings_say(holder, document, user_id):
    asked = authorization_request(key="C3B2A104", document=document)
    assert said(asked, holder=holder, keys=[KEY], balances={user_id: Decimal(1)}) is Allowed.NO_CREDIT


@pytest.mark.parametrize(
    ("asked", "holder", "context"),
    [
        (authorization_request(), "contract", {"balances": {"DE-ABC-C1": Decimal(1)}}),
        (authorization_request(key="ff"), "contract", {"balances": {"DE-ABC-C1": Decimal(1)}}),
        (authorization_request(key="04a1b2c3", document={"driver": None}), "/driver", {}),
        (authorization_request(key="04a1b2c3", document={"driver": True}), "/driver", {}),
        (authorization_request(key="04a1b2c3", document={"driver": "u" * 501}), "/driver", {}),
        (authorization_request(key="04a1b2c3"), "contract", {}),
        (
            authorization_request(key="04a1b2c3"),
            "contract",
            {"balances": {"DE-ABC-C1": BalanceSnapshot(Decimal(1), DEFAULT_NOW - timedelta(hours=25))}},
        ),
    ],
)
def test_where_too_little_is_known_it_passes_or_fails_as_it_is_set(asked, holder, context):
    assert said(asked, holder=holder, keys=[KEY], **context) is None
    with pytest.raises(Indeterminate):
        said(asked, holder=holder, keys=[KEY], settings={"authorize_without_facts": "fail"}, **context)


def test_an_old_balance_is_good_for_as_long_as_it_is_set():
    balances = {"DE-ABC-C1": BalanceSnapshot(Decimal(1), DEFAULT_NOW - timedelta(hours=23))}
    assert said(authorization_request(key="04a1b2c3"), keys=[KEY], balances=balances) is Allowed.NO_CREDIT
