"""Evaluate policies in their order until one decides, each with a context of its own."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import structlog
from structlog.typing import FilteringBoundLogger

from handlers.kit.policies import AuthorizeContext, Indeterminate, Policy
from ingest.authorize.decisions import FallbackReason, PolicyResult
from ingest.config.settings import Settings
from ingest.wire.authorization.request import AuthorizationRequest, Decision
from workers.ledger.database.engine import create_ledger_engine
from workers.ledger.reader import LedgerReader
from workers.policies.cache import PolicyCache
from workers.resilience.guarded_call import call_guarded

INITIAL_REFRESH_TIMEOUT = timedelta(seconds=2)
"""How long a process waits for the first copy of the ledger before it accepts requests without one."""


class PolicyContext:
    """The context of one policy: keys, balances and open sessions come from memory, the rest from the ledger."""

    def __init__(self, ledger: LedgerReader, cache: PolicyCache, settings: Settings, log: FilteringBoundLogger) -> None:
        self.settings = settings
        self.log = log
        self.read = ledger.read
        self.session = ledger.session
        self.charging_key = cache.charging_key
        self.charging_key_by_number = cache.charging_key_by_number
        self.keys_synced_at = cache.keys_synced_at
        self.balance = cache.balance
        self.open_sessions = cache.open_sessions
        self.sessions_read_at = cache.sessions_read_at

    def now(self) -> datetime:
        """Return the current time."""
        return datetime.now(UTC)


def policy_context_factory(settings: Settings) -> Callable[[Policy], AuthorizeContext]:
    """Open the ledger for the policies of this process, and start the cache; return what makes their contexts."""
    engine = create_ledger_engine(settings.database_url)
    cache = PolicyCache(engine, settings)
    cache.start(INITIAL_REFRESH_TIMEOUT)
    log = structlog.get_logger()
    reader = LedgerReader(engine)
    return lambda policy: PolicyContext(reader, cache, settings, log.bind(policy=policy.name))


@dataclass(frozen=True)
class PolicyChain:
    """Calls policies in the order of `Plugins.policies`."""

    policies: Sequence[Policy]
    contexts: Callable[[Policy], AuthorizeContext]
    executor: Executor | None = field(default=None, repr=False)
    """Where policies that are not async run; None: the event loop's own threads."""

    async def evaluate(
        self,
        request: AuthorizationRequest,
        *,
        skip: Collection[str] = (),
        on_start: Callable[[str], None] = lambda _name: None,
    ) -> PolicyResult:
        """Call each policy until one decides or fails. One in `skip` fails without a call. `on_start` precedes each."""
        for policy in self.policies:
            if policy.name in skip:
                return PolicyResult(policy=policy.name, failure=FallbackReason.CIRCUIT_OPEN)
            on_start(policy.name)
            returned, failure = await self._call(policy, request)
            if isinstance(failure, Indeterminate):
                return PolicyResult(policy=policy.name, failure=FallbackReason.INDETERMINATE, error=str(failure))
            if failure is not None or not isinstance(returned, Decision | None):
                error = f"returned {type(returned).__name__}" if failure is None else type(failure).__name__
                return PolicyResult(policy=policy.name, failure=FallbackReason.RAISED, error=error)
            if returned is not None:
                # A plain Decision: a plugin's own subclass may not be importable where the result is sent to.
                return PolicyResult(Decision(returned.allowed, returned.information, returned.reason), policy.name)
        return PolicyResult()

    async def _call(self, policy: Policy, request: AuthorizationRequest) -> tuple[object, BaseException | None]:
        context, failure = call_guarded(self.contexts, policy)
        if failure is not None or context is None:
            return None, failure
        if not policy.is_async:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self.executor, call_guarded, policy.function, request, context)
        called, failure = call_guarded(policy.function, request, context)
        return (await _outcome(called)) if isinstance(called, Awaitable) else (called, failure)


async def _outcome(called: Awaitable[object]) -> tuple[object, BaseException | None]:
    try:
        return await called, None
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():  # this task is cancelled, and not something inside the policy
            raise
        return None, asyncio.CancelledError()
    except BaseException as raised:  # noqa: BLE001 - a policy is foreign code: all that it raises is its own
        return None, raised
