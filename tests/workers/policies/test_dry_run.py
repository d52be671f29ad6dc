"""A dry run: all policies for one request, without serving it."""

import json

import pytest

from handlers import Allowed, Decision
from handlers.kit.policies import Policy, indeterminate
from handlers.kit.testing import policy_context
from ingest.authorize.decisions import FallbackReason
from ingest.config.settings import load_settings
from ingest.wire.authorization.request import WireFormat
from workers.policies.dry_run import dry_run

BODY = b'{"keyIdentifier": "04A1", "sessionId": "s1"}'


def abstains(request, ctx):
    return indeterminate("nothing is known", ctx)


async def refuses(request, ctx):
    return Decision(Allowed.BLOCKED, "Call us.", "it is blocked")


def raises(request, ctx):
    raise LookupError("no such thing")


def returns_text(request, ctx):
    return request.key


def interrupts(request, ctx):
    raise KeyboardInterrupt


def policy(function):
    return Policy(function, function.__name__, 1)


@pytest.fixture
def run(tmp_path):
    def run(*functions, body=BODY, form=WireFormat.PLUGSURFING, uid=None, **overrides):
        settings = load_settings(data_dir=tmp_path, **overrides)
        context = policy_context(settings={"authorize_without_facts": settings.authorize_without_facts})
        policies = [policy(function) for function in functions]
        return dry_run(form, uid, body, settings=settings, policies=policies, contexts=lambda _policy: context)

    return run


def test_every_policy_is_called_and_the_first_decision_counts(run):
    result = run(abstains, refuses, raises)
    assert [each.decision and each.decision.allowed for each in result.outcomes] == [None, Allowed.BLOCKED, None]
    assert result.outcomes[0].notes == ("nothing is known",)
    assert result.outcomes[2].error == "LookupError: no such thing"
    assert "raise LookupError" in result.outcomes[2].traceback
    assert (result.record.policy, result.record.failure) == ("refuses", None)
    assert json.loads(result.response) == {"allowed": "BLOCKED", "info": "Call us."}


@pytest.mark.parametrize("function", [raises, returns_text])
def test_a_policy_that_fails_before_another_decides_gets_the_answer_on_failure(run, function):
    result = run(function, refuses, authorize_on_failure="NOT_ALLOWED")
    assert (result.record.policy, result.record.failure) == (function.__name__, FallbackReason.RAISED)
    assert json.loads(result.response) == {"allowed": "NOT_ALLOWED"}


def test_an_indeterminate_policy_is_a_failure_without_a_traceback(run):
    result = run(abstains, authorize_without_facts="fail")
    (outcome,) = result.outcomes
    assert result.record.failure is FallbackReason.INDETERMINATE
    assert (outcome.error, outcome.traceback) == ("it cannot decide: nothing is known", None)


def test_no_policy_is_called_for_a_body_that_cannot_be_parsed(run):
    result = run(refuses, body=b"[", authorize_on_failure="EXPIRED")
    assert result.outcomes == ()
    assert (result.record.failure, json.loads(result.response)) == (FallbackReason.UNREADABLE, {"allowed": "EXPIRED"})


def test_a_key_may_charge_if_no_policy_decides(run):
    assert json.loads(run().response) == {"allowed": "ALLOWED"}


def test_ocpis_format_has_the_key_in_its_path_and_may_have_no_body(run):
    result = run(refuses, body=b"", form=WireFormat.OCPI, uid="04/A1 ü")
    assert result.record.request.key == "04/A1 ü"
    response = json.loads(result.response)
    assert (response["status_code"], response["data"]["allowed"]) == (1000, "BLOCKED")


def test_ctrl_c_ends_the_dry_run(run):
    with pytest.raises(KeyboardInterrupt):
        run(interrupts)
