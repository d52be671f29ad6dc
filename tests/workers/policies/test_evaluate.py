"""Policies are called in their order until one decides."""

import asyncio
from datetime import UTC, datetime

import pytest

from handlers.kit.policies import Indeterminate, authorize
from handlers.kit.session import DriverAssignment, Session
from ingest.authorize.decisions import FallbackReason, PolicyResult
from ingest.config.settings import load_settings
from ingest.wire.authorization.request import Allowed, AuthorizationRequest, Decision, WireFormat
from workers.ledger import sessions
from workers.policies.evaluate import PolicyChain, policy_context_factory

REQUEST = AuthorizationRequest(WireFormat.PLUGSURFING, datetime(2025, 6, 12, 12, tzinfo=UTC), key="0414DA")
USER = DriverAssignment(REQUEST.received_at, "event")
BLOCKED = Decision(Allowed.BLOCKED)


def policy(function, **arguments):
    """Mark a function; return its policy."""
    marked = authorize(**arguments)(function)
    return next(iter(vars(marked).values()))


def returning(decision, name, *, is_async=False):
    def plain(request, ctx):
        assert request is REQUEST
        return decision(ctx) if callable(decision) else decision

    async def asynchronous(request, ctx):
        await asyncio.sleep(0)
        return plain(request, ctx)

    return policy(asynchronous if is_async else plain, name=name)


def evaluated(*policies, **arguments):
    chain = PolicyChain(policies, lambda each: f"context of {each.name}")
    return asyncio.run(chain.evaluate(REQUEST, **arguments))


@pytest.mark.parametrize("is_async", [False, True])
def test_the_first_decision_wins_and_the_rest_are_not_called(is_async):
    started = []
    result = evaluated(
        returning(None, "first", is_async=is_async),
        returning(BLOCKED, "second", is_async=is_async),
        returning(Decision(Allowed.ALLOWED), "third"),
        on_start=started.append,
    )
    assert (result.decision, result.policy, result.failure) == (BLOCKED, "second", None)
    assert started == ["first", "second"]


def test_there_may_be_no_decision():
    assert evaluated(returning(None, "first")) == PolicyResult()


@pytest.mark.parametrize("is_async", [False, True])
def test_each_policy_gets_a_context_of_its_own(is_async):
    seen = []
    evaluated(returning(seen.append, "first", is_async=is_async), returning(seen.append, "second", is_async=is_async))
    assert seen == ["context of first", "context of second"]


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("error", [KeyError, SystemExit, KeyboardInterrupt, asyncio.CancelledError])
def test_whatever_a_policy_raises_is_its_failure_and_the_rest_are_not_called(is_async, error):
    def raises(_ctx):
        raise error("secret")

    result = evaluated(returning(raises, "first", is_async=is_async), returning(BLOCKED, "second"))
    assert (result.policy, result.failure, result.error) == ("first", FallbackReason.RAISED, error.__name__)


def test_returning_something_else_than_a_decision_is_a_failure():
    result = evaluated(returning("BLOCKED", "first"))
    assert (result.policy, result.failure, result.error) == ("first", FallbackReason.RAISED, "returned str")


def test_a_plugins_own_type_of_decision_becomes_a_plain_one():
    class Refusal(Decision):
        """A local class, which could not be pickled."""

    result = evaluated(returning(Refusal(Allowed.EXPIRED, "Renew it.", "old"), "own"))
    assert type(result.decision) is Decision
    assert result == PolicyResult(Decision(Allowed.EXPIRED, "Renew it.", "old"), "own")


def test_an_indeterminate_policy_reports_what_it_lacked():
    def lacks_the_list(_ctx):
        raise Indeterminate("the list of keys was not read")

    result = evaluated(returning(lacks_the_list, "first"), returning(BLOCKED, "second"))
    assert result == PolicyResult(
        policy="first", failure=FallbackReason.INDETERMINATE, error="the list of keys was not read"
    )


def test_a_policy_to_skip_fails_without_a_call_when_its_turn_comes():
    result = evaluated(returning(None, "first"), returning(BLOCKED, "second"), skip={"second"})
    assert (result.policy, result.failure) == ("second", FallbackReason.CIRCUIT_OPEN)
    assert evaluated(returning(BLOCKED, "first"), returning(None, "second"), skip={"second"}).policy == "first"


def test_a_context_that_cannot_be_made_is_a_failure():
    def contexts(_policy):
        raise OSError

    result = asyncio.run(PolicyChain([returning(BLOCKED, "first")], contexts).evaluate(REQUEST))
    assert (result.failure, result.error) == (FallbackReason.RAISED, "OSError")


def test_a_cancelled_evaluation_is_not_a_failure_of_the_policy():
    async def run():
        async def waits(_request, _ctx):
            await asyncio.Event().wait()

        chain = PolicyChain([policy(waits)], lambda _policy: "context")
        task = asyncio.create_task(chain.evaluate(REQUEST))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())


def test_a_context_reads_the_ledger_and_its_copy_in_memory(ledger, tmp_path):
    with ledger.begin() as conn:
        sessions.merge(conn, {"s1": lambda known: Session(known.session_id, users={"user1": USER})})
    settings = load_settings(data_dir=tmp_path, database_url=ledger.url.render_as_string(hide_password=False))
    context = policy_context_factory(settings)(returning(None, "first"))
    assert context.session("s1").session_id == "s1"
    assert context.session("s2") is None
    assert context.charging_key("04a1") is None
    assert context.keys_synced_at() is None
    assert context.balance("user1") is None
    assert context.open_sessions("04a1", "user1") == set()
    assert context.sessions_read_at() is None
    assert context.settings is settings
    assert context.now().tzinfo is not None
    context.balance.__self__.stop()
    context.read.__self__.engine.dispose()
