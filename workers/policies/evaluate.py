"""Ask policies in their order, until one of them decides."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import TypeAlias

from handlers.kit.policies import AuthorizeContext, Policy
from handlers.kit.policy_support import Indeterminate
from ingest.authorize.decision_record import FallbackReason
from ingest.authorize.evaluator import PolicyResult
from ingest.wire.authorization.request import AuthorizationRequest, Decision
from workers.resilience.guarded_call import call_guarded

Contexts: TypeAlias = Callable[[Policy], AuthorizeContext]


@dataclass(frozen=True)
class PolicyChain:
    """Asks policies. The order is theirs: `Plugins.policies`."""

    policies: Sequence[Policy]
    contexts: Contexts
    executor: Executor | None = field(default=None, repr=False)
    """Where plain policies run; None: in threads of the running loop's own."""

    async def evaluate(
        self,
        question: AuthorizationRequest,
        *,
        skip: Collection[str] = (),
        begins: Callable[[str], None] = lambda _name: None,
    ) -> PolicyResult:
        """Ask each until one decides, or fails; one that is spared fails unasked. `begins` hears of each before."""
        for policy in self.policies:
            if policy.name in skip:
                return PolicyResult(policy=policy.name, failure=FallbackReason.CIRCUIT_OPEN)
            begins(policy.name)
            returned, failure = await self._call(policy, question)
            if isinstance(failure, Indeterminate):
                return PolicyResult(policy=policy.name, failure=FallbackReason.INDETERMINATE, error=str(failure))
            if failure is not None or not isinstance(returned, Decision | None):
                error = f"returned {type(returned).__name__}" if failure is None else type(failure).__name__
                return PolicyResult(policy=policy.name, failure=FallbackReason.RAISED, error=error)
            if returned is not None:
                return PolicyResult(returned, policy.name)
        return PolicyResult()

    async def _call(self, policy: Policy, question: AuthorizationRequest) -> tuple[object, BaseException | None]:
        context, failure = call_guarded(self.contexts, policy)
        if failure is not None or context is None:
            return None, failure
        if not policy.is_async:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self.executor, call_guarded, policy.function, question, context)
        called, failure = call_guarded(policy.function, question, context)
        return (await _outcome(called)) if isinstance(called, Awaitable) else (called, failure)


async def _outcome(called: Awaitable[object]) -> tuple[object, BaseException | None]:
    try:
        return await called, None
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():  # it is us who are ended, and not something inside of the policy
            raise
        return None, asyncio.CancelledError()
    except BaseException as raised:  # noqa: BLE001 - a policy is foreign code: all that it raises is its own
        return None, raised
