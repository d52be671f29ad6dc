"""Trying policies out on one question."""

import json

import pytest

from handlers import Allowed, Decision
from handlers.kit.policies import Policy, indeterminate
from handlers.kit.testing import policy_context
from ingest.authorize.decision_record import FallbackReason
from ingest.config.settings import load_settings
from ingest.wire.authorization.request import WireFormat
from workers.policies.dry_run import dry_run, parse_request

BODY = b'{"keyIdentifier": "04A1", "sessionId": "s1"}'


def passes(question, ctx):
    return indeterminate("nobody knows", ctx)


async def refuses(question, ctx):
    return Decision(Allowed.BLOCKED, "Call us.", "it is blocked")


def breaks(question, ctx):
    raise LookupError("no such thing")


def is_wrong(question, ctx):
    return question.key


def policy(function):
    return Policy(function.__name__, 1, function, __name__, __file__, is_async=function is refuses)


@pytest.fixture
def tried(tmp_path):
    def attempt(*functions, body=BODY, form=WireFormat.PLUGSURFING, uid=None, **overrides):
        settings = load_settings(data_dir=tmp_path, **overrides)
        question, is_readable = parse_request(form, uid, body, settings)
        policies = [policy(function) for function in functions]
        context = policy_context(settings={"authorize_without_facts": settings.authorize_without_facts})
        return dry_run(question, settings, policies, lambda _policy: context, is_readable=is_readable)

    return attempt


def test_every_policy_says_its_say_and_the_first_decision_counts(tried):
    trial = tried(passes, refuses, breaks)
    assert [say.decision and say.decision.allowed for say in trial.outcomes] == [None, Allowed.BLOCKED, None]
    assert trial.outcomes[0].notes == ("nobody knows",)
    assert trial.outcomes[2].error == "LookupError: no such thing"
    assert (trial.record.policy, trial.record.failure) == ("refuses", None)
    assert json.loads(trial.response) == {"allowed": "BLOCKED", "info": "Call us."}


@pytest.mark.parametrize("function", [breaks, is_wrong])
def test_a_policy_that_fails_has_the_answer_on_failure_given(tried, function):
    trial = tried(function, refuses, authorize_on_failure="NOT_ALLOWED")
    assert (trial.record.policy, trial.record.failure) == (function.__name__, FallbackReason.RAISED)
    assert json.loads(trial.response) == {"allowed": "NOT_ALLOWED"}


def test_knowing_too_little_is_a_failure_without_a_traceback(tried):
    trial = tried(passes, authorize_without_facts="fail")
    (say,) = trial.outcomes
    assert trial.record.failure is FallbackReason.INDETERMINATE
    assert (say.error, say.traceback) == ("it cannot decide: nobody knows", None)


def test_nobody_is_asked_about_what_cannot_be_read(tried):
    trial = tried(refuses, body=b"[", authorize_on_failure="EXPIRED")
    assert trial.outcomes == ()
    assert (trial.record.failure, json.loads(trial.response)) == (FallbackReason.UNREADABLE, {"allowed": "EXPIRED"})


def test_where_nobody_objects_the_key_may_charge(tried):
    assert json.loads(tried().response) == {"allowed": "ALLOWED"}


def test_ocpis_form_has_the_key_in_its_path_and_may_have_no_body(tried):
    trial = tried(refuses, body=b"", form=WireFormat.OCPI, uid="04/A1 ü")
    assert trial.record.request.key == "04/A1 ü"
    said = json.loads(trial.response)
    assert (said["status_code"], said["data"]["allowed"]) == (1000, "BLOCKED")
