"""Markers of policies, and what policies use to decide."""

import asyncio
from datetime import timedelta
from types import ModuleType

import pytest
from structlog.testing import capture_logs

from handlers.kit.policies import (
    ChargingKeySnapshot,
    Indeterminate,
    authorize,
    indeterminate,
    is_stale,
    key_owner,
    policies_of,
)
from handlers.kit.testing import DEFAULT_NOW, authorization_request, policy_context

KEY = ChargingKeySnapshot("04a1b2c3", enabled=True, contract_id="DE-ABC-C1", visual_number="8PS-1")


def test_a_marked_function_stays_unchanged_and_is_found_in_its_module():
    def must_pay(_request, _ctx):
        return None

    must_pay.__module__ = "plugin"
    assert authorize(order=7)(must_pay) is must_pay
    module = ModuleType("plugin")
    module.must_pay = must_pay
    (policy,) = policies_of(module)
    assert (policy.name, policy.order, policy.function, policy.is_async) == ("must_pay", 7, must_pay, False)
    assert (policy.plugin, policy.file, policy.when) == ("plugin", __file__, None)


def test_an_invalid_marker_is_refused_where_it_is_made():
    with pytest.raises(TypeError, match="marked twice"):
        authorize(name="a")(authorize(name="a")(lambda _request, _ctx: None))
    with pytest.raises(TypeError, match="marks functions"):
        authorize()(object())
    with pytest.raises(TypeError, match="cannot name a policy"):
        authorize(name="a b")(lambda _request, _ctx: None)
    with pytest.raises(TypeError, match="yields"):

        @authorize()
        def generates(_request, _ctx):
            yield


def test_a_module_without_policies_has_none():
    assert policies_of(asyncio) == []


@pytest.mark.parametrize(
    ("place", "document", "owner"),
    [
        ("contract", {}, "DE-ABC-C1"),
        ("key", {}, "04a1b2c3"),
        ("reference", {}, "8PS-1"),
        ("/driver/id", {"driver": {"id": "user1"}}, "user1"),
        ("/driver", {"driver": 17}, "17"),
        ("/driver", {"driver": True}, None),
        ("/driver", {"driver": None}, None),
        ("/driver", {"driver": ""}, None),
        ("/driver", {"driver": "u" * 501}, None),
    ],
)
def test_the_owner_of_a_key_is_at_the_place_of_the_setting(place, document, owner):
    ctx = policy_context(keys=[KEY], settings={"authorize_holder": place})
    assert key_owner(authorization_request(key="C3B2A104", document=document), ctx) == owner


def test_the_owner_may_be_the_number_on_the_card():
    ctx = policy_context(keys=[KEY], settings={"authorize_holder": "reference"})
    assert key_owner(authorization_request(reference_id="8PS-2"), ctx) == "8PS-2"
    assert key_owner(authorization_request(key="04A1B2C3", reference_id="8PS-2"), ctx) == "8PS-2"
    assert key_owner(authorization_request(key="ff"), ctx) is None
    ctx = policy_context(keys=[KEY], settings={"authorize_holder": "contract"})
    assert key_owner(authorization_request(reference_id="8PS-1"), ctx) == "DE-ABC-C1"


def test_the_id_of_a_user_that_is_a_key_keeps_its_case():
    ctx = policy_context(keys=[ChargingKeySnapshot("App-User", enabled=True)], settings={"authorize_holder": "key"})
    assert key_owner(authorization_request(key="App-User"), ctx) == "App-User"


def test_the_owner_of_a_key_that_is_not_listed_is_the_key_itself_or_unknown():
    request = authorization_request(key="ff")
    assert key_owner(request, policy_context(settings={"authorize_holder": "key"})) == "ff"
    assert key_owner(request, policy_context(settings={"authorize_holder": "contract"})) is None
    assert key_owner(authorization_request(), policy_context(settings={"authorize_holder": "key"})) is None


def test_a_snapshot_is_stale_after_its_time_or_if_there_is_none():
    ctx = policy_context()
    hour = timedelta(hours=1)
    assert is_stale(None, hour, ctx)
    assert is_stale(DEFAULT_NOW - hour - timedelta(microseconds=1), hour, ctx)
    assert not is_stale(DEFAULT_NOW - hour, hour, ctx)


def test_an_indeterminate_policy_abstains_with_a_log_line_or_raises():
    with capture_logs() as logs:
        assert indeterminate("no list", policy_context()) is None
    assert [(line["event"], line["reason"]) for line in logs] == [("policy.abstained", "no list")]
    with pytest.raises(Indeterminate, match="no list"):
        indeterminate("no list", policy_context(settings={"authorize_without_facts": "fail"}))
