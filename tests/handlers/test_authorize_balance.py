from datetime import timedelta
from decimal import Decimal

import pytest

from handlers import Allowed
from handlers.authorize_balance import must_have_credit
from handlers.kit.policies import BalanceSnapshot, ChargingKeySnapshot, Indeterminate
from handlers.kit.testing import DEFAULT_NOW, authorization_request, policy_context

KEY = ChargingKeySnapshot("04a1b2c3", enabled=True, contract_id="DE-ABC-C1")


def decided(incoming, least="5", holder="contract", **context):
    settings = {"authorize_least_balance": Decimal(least), "authorize_holder": holder}
    decision = must_have_credit(incoming, policy_context(settings=settings | context.pop("settings", {}), **context))
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
    assert decided(authorization_request(key="04A1B2C3"), least, keys=[KEY], balances=balances) is answer


@pytest.mark.parametrize(
    ("holder", "document", "user_id"),
    [
        ("contract", {}, "DE-ABC-C1"),
        ("key", {}, "04a1b2c3"),
        ("/driver/id", {"driver": {"id": "user1"}}, "user1"),
        ("/driver", {"driver": 17}, "17"),
    ],
)
def test_the_owner_of_a_key_is_found_by_the_settings(holder, document, user_id):
    incoming = authorization_request(key="C3B2A104", document=document)
    assert decided(incoming, holder=holder, keys=[KEY], balances={user_id: Decimal(1)}) is Allowed.NO_CREDIT


@pytest.mark.parametrize(
    ("incoming", "holder", "context"),
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
def test_an_indeterminate_policy_abstains_or_fails_by_the_setting(incoming, holder, context):
    assert decided(incoming, holder=holder, keys=[KEY], **context) is None
    with pytest.raises(Indeterminate):
        decided(incoming, holder=holder, keys=[KEY], settings={"authorize_without_facts": "fail"}, **context)


def test_an_old_balance_counts_for_authorize_balances_stale():
    balances = {"DE-ABC-C1": BalanceSnapshot(Decimal(1), DEFAULT_NOW - timedelta(hours=23))}
    assert decided(authorization_request(key="04a1b2c3"), keys=[KEY], balances=balances) is Allowed.NO_CREDIT
