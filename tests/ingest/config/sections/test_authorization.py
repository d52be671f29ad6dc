"""The settings of authorization and of the built-in policies."""

from decimal import Decimal

import pytest

from ingest.config.sections.authorization import ByteOrder, OnIndeterminate
from ingest.config.settings import load_settings
from ingest.errors import SettingsError
from ingest.wire.authorization.request import Allowed


def test_the_built_in_policies_are_off_by_default():
    settings = load_settings()
    assert not settings.authorize_key_list
    assert not settings.authorize_one_session
    assert settings.authorize_least_balance is None
    assert settings.authorize_on_failure is Allowed.ALLOWED


@pytest.mark.parametrize("owner", ["contract", "key", "reference", "/userId", "/user/id"])
def test_the_owner_of_a_key_is_its_contract_itself_or_a_pointer(owner):
    assert load_settings(authorize_holder=owner).authorize_holder == owner


@pytest.mark.parametrize("owner", ["user", "userId", "/~2", "/-"])
def test_any_other_owner_is_refused(owner):
    with pytest.raises(SettingsError, match="AUTHORIZE_HOLDER must"):
        load_settings(authorize_holder=owner)


def test_settings_of_policies_are_parsed_from_text():
    settings = load_settings(
        authorize_least_balance="1.50",
        authorize_key_bytes="big",
        authorize_without_facts="fail",
        authorize_fleets="a, b",
    )
    assert settings.authorize_least_balance == Decimal("1.50")
    assert settings.authorize_key_bytes is ByteOrder.BIG
    assert settings.authorize_without_facts is OnIndeterminate.FAIL
    assert settings.authorize_fleets == ("a", "b")


@pytest.mark.parametrize("balance", ["NaN", "Infinity", "much"])
def test_a_balance_that_is_not_a_number_is_refused(balance):
    with pytest.raises(SettingsError, match="AUTHORIZE_LEAST_BALANCE"):
        load_settings(authorize_least_balance=balance)


def test_authorize_requires_credentials():
    with pytest.raises(SettingsError, match=r"\AAUTHORIZE_CREDENTIALS is not set"):
        load_settings().require_credentials()
    load_settings(authorize_credentials="secret").require_credentials()
