"""The pool of policy processes, and the circuit breakers of policies."""

import asyncio
import os
import signal
import time
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from textwrap import dedent

import pytest

from ingest.authorize.decisions import EvaluatorStatus, FallbackReason, PolicyResult
from ingest.backoff import Backoff
from ingest.config.settings import load_settings
from ingest.wire.authorization.request import Allowed, AuthorizationRequest, WireFormat
from workers.plugins import load_plugins
from workers.policies import pool as pool_module
from workers.policies.pool import PolicyBreakers, PolicyProcessPool
from workers.resilience.circuit_breaker import FAILURES, PAUSE

MODULE = "odd_policies"
POLICIES = '''
"""Policies that do what a key tells them."""

import asyncio
import os
import re
import time

from handlers import Allowed, AuthorizationRequest, AuthorizeContext, Decision, authorize


@authorize(order=1)
def plain(request: AuthorizationRequest, ctx: AuthorizeContext) -> Decision | None:
    match request.key:
        case "sleeps":
            time.sleep(600)
        case "burns CPU":
            while True:
                pass
        case "holds the GIL":
            re.match(r"(a+)+$", "a" * 64 + "b")
        case "dies":
            os._exit(3)
        case "raises":
            raise KeyError(request.key)
        case "blocked":
            return Decision(Allowed.BLOCKED, "Ask your fleet.", str(os.getpid()))
    return None


@authorize(order=2)
async def asynchronous(request: AuthorizationRequest, ctx: AuthorizeContext) -> Decision | None:
    match request.key:
        case "waits":
            await asyncio.sleep(600)
        case "blocks the loop":
            time.sleep(600)
        case "a moment":
            await asyncio.sleep(0.05)
            return Decision(Allowed.EXPIRED)
        case "last":
            return Decision(Allowed.NO_CREDIT)
    return None
'''


@pytest.fixture
def settings(tmp_path, monkeypatch):
    """Settings with the module above, where policy processes find it."""
    (tmp_path / f"{MODULE}.py").write_text(dedent(POLICIES))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return load_settings(handler_modules=MODULE, data_dir=tmp_path, authorize_timeout="1s")


def pool_of(settings):
    return PolicyProcessPool(settings, [each for each in load_plugins(settings).policies if each.plugin == MODULE])


@asynccontextmanager
async def running(settings):
    pool = pool_of(settings)
    await pool.start()
    until = time.monotonic() + 60
    while pool.status().ready < settings.authorize_processes:
        assert time.monotonic() < until
        await asyncio.sleep(0.02)
    try:
        yield pool
    finally:
        await pool.stop()


async def evaluated(pool, key, seconds=20.0):
    request = AuthorizationRequest(WireFormat.PLUGSURFING, datetime.now(UTC), key=key, document={"keyIdentifier": key})
    return await pool.evaluate(request, time.monotonic() + seconds)


def test_without_policies_no_process_is_started_and_no_request_has_a_decision(settings):
    async def story():
        pool = PolicyProcessPool(settings, ())
        await pool.start()
        assert pool.status() == EvaluatorStatus(wanted=0, ready=0)
        assert await evaluated(pool, "any") == PolicyResult()
        await pool.stop()

    asyncio.run(story())


def test_policies_decide_in_other_processes(settings):
    async def story():
        async with running(settings) as pool:
            blocked, last, moment, unknown = [
                await evaluated(pool, key) for key in ("blocked", "last", "a moment", "unknown")
            ]
            assert (blocked.decision.allowed, blocked.policy) == (Allowed.BLOCKED, "plain")
            assert blocked.decision.reason != str(os.getpid())
            assert (last.decision.allowed, last.policy) == (Allowed.NO_CREDIT, "asynchronous")
            assert moment.decision.allowed is Allowed.EXPIRED
            assert unknown == PolicyResult()
            raised = await evaluated(pool, "raises")
            assert (raised.failure, raised.policy, raised.error) == (FallbackReason.RAISED, "plain", "KeyError")

    asyncio.run(story())


@pytest.mark.parametrize(
    ("key", "policy"),
    [
        ("sleeps", "plain"),
        ("burns CPU", "plain"),
        ("holds the GIL", "plain"),
        ("waits", "asynchronous"),
        ("blocks the loop", "asynchronous"),
    ],
)
def test_whatever_a_policy_does_the_deadline_holds_and_others_are_served(settings, key, policy):
    async def story():
        async with running(settings) as pool:
            started_at = time.monotonic()
            hanging = asyncio.create_task(evaluated(pool, key, 0.8))
            await asyncio.sleep(0.2)
            served = await asyncio.gather(*(evaluated(pool, "blocked") for _ in range(6)))
            served_after = time.monotonic() - started_at
            result = await hanging
            took = time.monotonic() - started_at
            assert (result.failure, result.policy) == (FallbackReason.TIMEOUT, policy)
            assert 0.8 <= took < 10
            assert {each.decision.allowed for each in served} == {Allowed.BLOCKED}
            assert served_after < 10
            again = await evaluated(pool, "blocked")
            assert again.decision.allowed is Allowed.BLOCKED

    asyncio.run(story())


def test_a_request_before_a_process_is_ready_waits_for_it(settings):
    async def story():
        pool = pool_of(settings)
        await pool.start()
        try:
            assert pool.status().ready == 0
            early = await evaluated(pool, "blocked", 0)
            assert (early.failure, early.error) == (FallbackReason.CRASHED, "NoProcess")
            assert (await evaluated(pool, "blocked", 60)).decision.allowed is Allowed.BLOCKED
        finally:
            await pool.stop()

    asyncio.run(story())


def test_a_process_that_dies_is_noticed_at_once_and_replaced(settings):
    async def story():
        async with running(settings) as pool:
            started_at = time.monotonic()
            result = await evaluated(pool, "dies", 60)
            assert time.monotonic() - started_at < 30
            assert (result.failure, result.policy, result.error) == (FallbackReason.CRASHED, "plain", "ProcessDied")
            assert (await evaluated(pool, "blocked")).decision.allowed is Allowed.BLOCKED

    asyncio.run(story())


def test_a_process_that_is_stopped_costs_a_request_no_more_than_the_hedge(settings):
    async def story():
        async with running(settings) as pool:
            stopped = int((await evaluated(pool, "blocked")).decision.reason)
            os.kill(stopped, signal.SIGSTOP)
            for _ in range(4):
                result = await evaluated(pool, "blocked")
                assert int(result.decision.reason) != stopped
            os.kill(stopped, signal.SIGKILL)

    asyncio.run(story())


def test_a_policy_that_keeps_failing_is_not_called(settings):
    async def story():
        async with running(settings) as pool:
            for _ in range(FAILURES):
                assert (await evaluated(pool, "raises")).failure is FallbackReason.RAISED
            assert pool.status().open_circuits == ("plain",)
            assert (await evaluated(pool, "blocked")).failure is FallbackReason.CIRCUIT_OPEN

    asyncio.run(story())


def test_no_process_is_left_after_stop_whatever_it_does(settings):
    async def story():
        async with running(settings) as pool:
            pid = int((await evaluated(pool, "blocked")).decision.reason)
            hanging = [asyncio.create_task(evaluated(pool, "holds the GIL", 1.0)) for _ in range(2)]
            await asyncio.sleep(0.3)
            await pool.stop()
            results = await asyncio.gather(*hanging)
            assert {result.failure for result in results} <= {FallbackReason.CRASHED, FallbackReason.TIMEOUT}
            with pytest.raises(ProcessLookupError):
                os.kill(pid, 0)

    asyncio.run(story())


def test_a_process_that_does_not_start_is_tried_again(settings, monkeypatch):
    monkeypatch.setattr(pool_module, "START_TIMEOUT", 0.0)
    monkeypatch.setattr(pool_module, "BACKOFF", Backoff(first=timedelta(0), longest=timedelta(0)))
    starts = []
    start = pool_module.PolicyProcess.start

    async def counted(process, within):
        starts.append(within)
        if len(starts) > settings.authorize_processes:
            within = 60.0
        return await start(process, within)

    monkeypatch.setattr(pool_module.PolicyProcess, "start", counted)

    async def story():
        async with running(settings) as pool:
            assert (await evaluated(pool, "blocked")).decision.allowed is Allowed.BLOCKED

    asyncio.run(story())
    assert len(starts) > settings.authorize_processes


TIMED_OUT = PolicyResult(policy="slow", failure=FallbackReason.TIMEOUT)


def almost_open(now):
    """Breakers whose policy `slow` opens with its next failure."""
    breakers = PolicyBreakers(["quick", "slow"], lambda: now[0])
    for _ in range(FAILURES - 1):
        _, probed = breakers.acquire()
        breakers.record(TIMED_OUT, ["quick", "slow"], probed)
    return breakers


def test_failures_in_a_row_open_the_breaker_of_that_policy_only():
    breakers = almost_open([0.0])
    assert breakers.acquire() == (frozenset(), frozenset())
    breakers.record(TIMED_OUT, ["quick", "slow"], ())
    assert breakers.acquire() == (frozenset({"slow"}), frozenset())
    assert breakers.open_policies() == ("slow",)


def test_a_success_between_failures_resets_them():
    breakers = almost_open([0.0])
    breakers.record(PolicyResult(), ["quick", "slow"], ())
    breakers.record(TIMED_OUT, ["slow"], ())
    assert breakers.open_policies() == ()


def test_after_a_pause_one_request_is_the_probe():
    now = [0.0]
    breakers = almost_open(now)
    breakers.record(TIMED_OUT, ["slow"], ())
    now[0] += PAUSE.total_seconds()
    assert breakers.acquire() == (frozenset(), frozenset({"slow"}))
    assert breakers.acquire() == (frozenset({"slow"}), frozenset())
    breakers.record(PolicyResult(), ["quick", "slow"], {"slow"})
    assert breakers.acquire() == (frozenset(), frozenset())


def test_a_probe_whose_policy_was_not_called_leaves_its_place_to_the_next():
    now = [0.0]
    breakers = almost_open(now)
    breakers.record(TIMED_OUT, ["slow"], ())
    now[0] += PAUSE.total_seconds()
    _, probed = breakers.acquire()
    breakers.record(PolicyResult(policy="quick"), ["quick"], probed)
    assert breakers.acquire() == (frozenset(), frozenset({"slow"}))


def test_indeterminate_results_do_not_open_a_breaker():
    breakers = PolicyBreakers(["key_list"], lambda: 0.0)
    for _ in range(FAILURES):
        breakers.record(PolicyResult(policy="key_list", failure=FallbackReason.INDETERMINATE), ["key_list"], ())
    assert breakers.acquire() == (frozenset(), frozenset())


def test_a_skipped_policy_counts_no_failure():
    breakers = almost_open([0.0])
    breakers.record(PolicyResult(policy="slow", failure=FallbackReason.CIRCUIT_OPEN), ["quick"], ())
    assert breakers.open_policies() == ()
