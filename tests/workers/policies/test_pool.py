import asyncio
import os
import time
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from textwrap import dedent

import pytest

from ingest.authorize.decision_record import FallbackReason
from ingest.config.settings import load_settings
from ingest.wire.authorization.request import Allowed, AuthorizationRequest, WireFormat
from workers.plugins import load_plugins
from workers.policies.pool import PolicyProcessPool

MODULE = "odd_policies"
POLICIES = '''
"""Policies that do what a key asks for."""

import asyncio
import os
import re
import time

from handlers import Allowed, AuthorizeContext, Decision, AuthorizationRequest, authorize


@authorize(order=1)
def plain(question: AuthorizationRequest, ctx: AuthorizeContext) -> Decision | None:
    match question.key:
        case "sleeps":
            time.sleep(600)
        case "burns":
            while True:
                pass
        case "holds the lock":
            re.match(r"(a+)+$", "a" * 64 + "b")
        case "dies":
            os._exit(3)
        case "raises":
            raise KeyError(question.key)
        case "blocked":
            return Decision(Allowed.BLOCKED, "Ask your fleet.", str(os.getpid()))
    return None


@authorize(order=2)
async def patient(question: AuthorizationRequest, ctx: AuthorizeContext) -> Decision | None:
    match question.key:
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
def policies(tmp_path, monkeypatch):
    """The module above, where judges find it."""
    (tmp_path / f"{MODULE}.py").write_text(dedent(POLICIES))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return load_settings(handler_modules=MODULE, data_dir=tmp_path, authorize_timeout="1s")


@asynccontextmanager
async def seated(settings):
    panel = PolicyProcessPool(settings, [each for each in load_plugins(settings).policies if each.plugin == MODULE])
    await panel.start()
    until = time.monotonic() + 60
    while panel.status().ready < settings.authorize_processes:
        assert time.monotonic() < until
        await asyncio.sleep(0.02)
    try:
        yield panel
    finally:
        await panel.stop()


def question(key):
    return AuthorizationRequest(WireFormat.PLUGSURFING, datetime.now(UTC), key=key, document={"keyIdentifier": key})


async def decided(panel, key, seconds=20.0):
    return await panel.evaluate(question(key), time.monotonic() + seconds)


def test_policies_decide_in_other_processes(policies):
    async def story():
        async with seated(policies) as panel:
            blocked, last, moment, nobody = [
                await decided(panel, key) for key in ("blocked", "last", "a moment", "unknown")
            ]
            assert (blocked.decision.allowed, blocked.policy) == (Allowed.BLOCKED, "plain")
            assert blocked.decision.reason != str(os.getpid())
            assert (last.decision.allowed, last.policy) == (Allowed.NO_CREDIT, "patient")
            assert moment.decision.allowed is Allowed.EXPIRED
            assert nobody.decision is None
            assert nobody.failure is None
            raised = await decided(panel, "raises")
            assert (raised.failure, raised.policy, raised.error) == (FallbackReason.RAISED, "plain", "KeyError")

    asyncio.run(story())


@pytest.mark.parametrize(
    ("key", "policy"),
    [
        ("sleeps", "plain"),
        ("burns", "plain"),
        ("holds the lock", "plain"),
        ("waits", "patient"),
        ("blocks the loop", "patient"),
    ],
)
def test_whatever_a_policy_does_the_time_is_kept_and_others_are_served_meanwhile(policies, key, policy):
    async def story():
        async with seated(policies) as panel:
            begun = time.monotonic()
            hanging = asyncio.create_task(decided(panel, key, 0.8))
            await asyncio.sleep(0.2)
            served = await asyncio.gather(*(decided(panel, "blocked") for _ in range(6)))
            served_after = time.monotonic() - begun
            ruling = await hanging
            took = time.monotonic() - begun
            assert (ruling.failure, ruling.policy) == (FallbackReason.TIMEOUT, policy)
            assert 0.8 <= took < 10
            assert {each.decision.allowed for each in served} == {Allowed.BLOCKED}
            assert served_after < 10
            again = await decided(panel, "blocked")
            assert again.decision.allowed is Allowed.BLOCKED

    asyncio.run(story())


def test_whoever_asks_before_a_judge_is_ready_waits_for_it(policies):
    async def story():
        panel = PolicyProcessPool(policies, [each for each in load_plugins(policies).policies if each.plugin == MODULE])
        await panel.start()
        try:
            assert panel.status().ready == 0
            assert (await decided(panel, "blocked", 0)).failure is FallbackReason.CRASHED
            assert (await decided(panel, "blocked", 60)).decision.allowed is Allowed.BLOCKED
        finally:
            await panel.stop()

    asyncio.run(story())


def test_a_judge_that_dies_is_replaced(policies):
    async def story():
        async with seated(policies) as panel:
            ruling = await decided(panel, "dies")
            assert (ruling.failure, ruling.policy, ruling.error) == (FallbackReason.CRASHED, "plain", "ProcessDied")
            assert (await decided(panel, "blocked")).decision.allowed is Allowed.BLOCKED

    asyncio.run(story())


def test_a_policy_that_keeps_failing_is_spared(policies):
    async def story():
        async with seated(policies) as panel:
            for _ in range(5):
                assert (await decided(panel, "raises")).failure is FallbackReason.RAISED
            assert panel.status().open_circuits == ("plain",)
            assert (await decided(panel, "blocked")).failure is FallbackReason.CIRCUIT_OPEN

    asyncio.run(story())


def test_at_the_end_no_judge_is_left_whatever_it_does(policies):
    async def story():
        async with seated(policies) as panel:
            pid = int((await decided(panel, "blocked")).decision.reason)
            hanging = [asyncio.create_task(decided(panel, "holds the lock", 1.0)) for _ in range(2)]
            await asyncio.sleep(0.3)
            await panel.stop()
            rulings = await asyncio.gather(*hanging)
            assert {ruling.failure for ruling in rulings} <= {FallbackReason.CRASHED, FallbackReason.TIMEOUT}
            with pytest.raises(ProcessLookupError):
                os.kill(pid, 0)

    asyncio.run(story())
