import asyncio
from datetime import UTC, datetime

import pytest

from handlers.kit.policies import Indeterminate, authorize, policies_of
from ingest.authorize.decision_record import FallbackReason
from ingest.authorize.evaluator import PolicyResult
from ingest.wire.authorization.request import Allowed, AuthorizationRequest, Decision, WireFormat
from workers.policies.evaluate import PolicyChain

QUESTION = AuthorizationRequest(WireFormat.PLUGSURFING, datetime(2025, 6, 12, 12, tzinfo=UTC), key="0414DA")
BLOCKED = Decision(Allowed.BLOCKED)


def policy(function, **mark):
    """Mark a function; give what the mark says."""
    marked = authorize(**mark)(function)
    return next(iter(vars(marked).values()))


def says(decision, name, *, is_async=False):
    def plainly(question, ctx):
        assert question is QUESTION
        return decision(ctx) if callable(decision) else decision

    async def in_a_while(question, ctx):
        await asyncio.sleep(0)
        return plainly(question, ctx)

    return policy(in_a_while if is_async else plainly, name=name)


def asked(*policies, **given):
    return asyncio.run(PolicyChain(policies, lambda each: f"context of {each.name}").evaluate(QUESTION, **given))


@pytest.mark.parametrize("is_async", [False, True])
def test_the_first_decision_wins_and_the_rest_are_not_asked(is_async):
    begun = []
    ruling = asked(
        says(None, "first", is_async=is_async),
        says(BLOCKED, "second", is_async=is_async),
        says(Decision(Allowed.ALLOWED), "third"),
        on_start=begun.append,
    )
    assert (ruling.decision, ruling.policy, ruling.failure) == (BLOCKED, "second", None)
    assert begun == ["first", "second"]


def test_nobody_decides():
    ruling = asked(says(None, "first"))
    assert (ruling.decision, ruling.policy, ruling.failure) == (None, None, None)


@pytest.mark.parametrize("is_async", [False, True])
def test_a_policy_is_given_its_own_context(is_async):
    seen = []
    asked(says(seen.append, "first", is_async=is_async), says(seen.append, "second", is_async=is_async))
    assert seen == ["context of first", "context of second"]


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("error", [KeyError, SystemExit, KeyboardInterrupt, asyncio.CancelledError])
def test_whatever_a_policy_raises_is_its_own_and_the_rest_are_not_asked(is_async, error):
    def raises(_ctx):
        raise error("secret")

    ruling = asked(says(raises, "first", is_async=is_async), says(BLOCKED, "second"))
    assert (ruling.policy, ruling.failure, ruling.error) == ("first", FallbackReason.RAISED, error.__name__)


def test_what_is_no_decision_is_a_failure():
    ruling = asked(says("BLOCKED", "first"))
    assert (ruling.policy, ruling.failure, ruling.error) == ("first", FallbackReason.RAISED, "returned str")


def test_one_that_knows_too_little_says_of_what():
    def knows_nothing(_ctx):
        raise Indeterminate("the list of keys was not read")

    ruling = asked(says(knows_nothing, "first"), says(BLOCKED, "second"))
    assert ruling == PolicyResult(
        policy="first", failure=FallbackReason.INDETERMINATE, error="the list of keys was not read"
    )


def test_one_that_is_spared_fails_unasked_but_only_if_it_is_its_turn():
    ruling = asked(says(None, "first"), says(BLOCKED, "second"), skip={"second"})
    assert (ruling.policy, ruling.failure) == ("second", FallbackReason.CIRCUIT_OPEN)
    assert asked(says(BLOCKED, "first"), says(None, "second"), skip={"second"}).policy == "first"


def test_a_context_that_cannot_be_made_is_a_failure():
    def contexts(_policy):
        raise OSError

    ruling = asyncio.run(PolicyChain([says(BLOCKED, "first")], contexts).evaluate(QUESTION))
    assert (ruling.failure, ruling.error) == (FallbackReason.RAISED, "OSError")


def test_a_mark_says_what_is_wrong_with_it():
    with pytest.raises(TypeError, match="marked twice"):
        authorize(name="a")(authorize(name="a")(lambda _question, _ctx: None))
    with pytest.raises(TypeError, match="marks functions"):
        authorize()(object())
    with pytest.raises(TypeError, match="cannot name a policy"):
        authorize(name="a b")(lambda _question, _ctx: None)
    with pytest.raises(TypeError, match="yields"):

        @authorize()
        def generates(_question, _ctx):
            yield


def test_only_what_a_module_defines_itself_is_its_own():
    assert policies_of(asyncio) == []
