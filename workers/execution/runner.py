"""One handler on one delivery: what came of it, whatever the handler did."""

import asyncio
import math
import time
import traceback
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial

import structlog
from rq.timeouts import JobTimeoutException

from handlers.kit.context import Context, DeferredEffects, Reader
from handlers.kit.session import Session
from handlers.kit.signals import GiveUp, Moot, RetryLater
from handlers.kit.subscriptions import Subscription
from ingest.config.settings import Settings
from ingest.events import Event, sanitize_text
from ingest.queue.batch import Delivery
from workers.ledger.states import Outcome
from workers.resilience.guarded_call import HandlerDeadline, call_guarded
from workers.resilience.hard_timeout import kill_after
from workers.resilience.retry import RetryPolicy

log = structlog.get_logger()
utc_now = partial(datetime.now, UTC)

WAIT_RECHECK = timedelta(minutes=1)
"""When a run that waits for news of a session looks for itself: news wake it, and looking sooner keeps them away."""


@dataclass(frozen=True)
class HandlerCall:
    """A run that is to be made: which handler, on which event of which delivery; `attempt` counts from 1."""

    subscription: Subscription
    event: Event
    delivery: Delivery
    attempt: int = 1


@dataclass(frozen=True)
class RunResult:
    """What came of a run. `writes` is what the handler asked for, empty unless the outcome is done."""

    delivery_id: str
    handler: str
    attempt: int
    outcome: Outcome
    started_at: datetime
    finished_at: datetime
    writes: DeferredEffects = field(default_factory=DeferredEffects)
    reason: str | None = None
    error: str | None = None
    traceback: str | None = None
    due_at: datetime | None = None
    expires_at: datetime | None = None
    waits_for: str | None = None
    sessions_read: Mapping[str, Session | None] = field(default_factory=dict)
    """The sessions that the handler looked at, as it saw them."""
    queue: str | None = None
    """The queue of its next job; None for the queue that its delivery came on."""


@dataclass(frozen=True)
class Runner:
    """Makes runs, each within HANDLER_TIMEOUT; asynchronous ones together, at most HANDLER_CONCURRENCY at a time."""

    reader: Reader
    settings: Settings
    clock: Callable[[], datetime] = utc_now

    def run_all(self, tasks: Sequence[HandlerCall], until: float = math.inf) -> list[RunResult]:
        """Run every task; one that fails harms only itself.

        Those that have not begun when `time.monotonic()` is `until` are left waiting, for jobs of their own.
        """
        results = [self._run(task, until) for task in tasks if not task.subscription.is_async]
        concurrent = [task for task in tasks if task.subscription.is_async]
        if concurrent:
            rounds = -(-len(concurrent) // self.settings.handler_concurrency)
            most = max_duration(self.settings.handler_timeout, rounds, until)
            with kill_after(most):  # one that blocks the loop is told by nobody
                results += asyncio.run(self._run_together(concurrent, until))
        return results

    def _run(self, task: HandlerCall, until: float) -> RunResult:
        if time.monotonic() >= until:
            return waiting(task)
        started_at, context = self.clock(), self._context(task)
        _, failure = call_guarded(self._call_in_time, task, context)
        return self._result(task, context, started_at, failure)

    def _call_in_time(self, task: HandlerCall, context: Context) -> None:
        span = self.settings.handler_timeout
        with kill_after(span), HandlerDeadline(span) as deadline:
            deadline.call(task.subscription.function, task.event, context)

    async def _run_together(self, tasks: Sequence[HandlerCall], until: float) -> list[RunResult]:
        places = asyncio.Semaphore(self.settings.handler_concurrency)

        async def run_one(task: HandlerCall) -> RunResult:
            async with places:
                if time.monotonic() >= until:
                    return waiting(task)
                started_at, context = self.clock(), self._context(task)
                (failure,) = await asyncio.gather(self._call(task, context), return_exceptions=True)
                if isinstance(failure, JobTimeoutException):
                    raise failure
                return self._result(task, context, started_at, failure)

        return await asyncio.gather(*(run_one(task) for task in tasks))

    async def _call(self, task: HandlerCall, context: Context) -> None:
        try:
            async with asyncio.timeout(self.settings.handler_timeout.total_seconds()):
                called = task.subscription.function(task.event, context)
                if isinstance(called, Awaitable):
                    await called
        except (SystemExit, KeyboardInterrupt) as left:
            # The event loop lets these two through to the whole job; one handler may not end the others.
            raise RuntimeError(f"the handler raised {type(left).__name__}") from left

    def _context(self, task: HandlerCall) -> Context:
        return Context(
            delivery=task.delivery,
            reader=self.reader,
            attempt=task.attempt,
            clock=self.clock,
            log=log.bind(delivery=task.delivery.id, handler=task.subscription.name, attempt=task.attempt),
            settings=self.settings,
        )

    def _result(
        self, task: HandlerCall, context: Context, started_at: datetime, failure: BaseException | None
    ) -> RunResult:
        finished_at = self.clock()
        name = task.subscription.name
        run = RunResult(task.delivery.id, name, task.attempt, Outcome.DONE, started_at, finished_at, context.writes)
        if failure is None:
            return run
        return failed(replace(run, sessions_read=context.sessions_read), failure, RetryPolicy.of(self.settings))


def waiting(task: HandlerCall) -> RunResult:
    """Leave a run to a job of its own."""
    at = utc_now()
    return RunResult(
        task.delivery.id, task.subscription.name, 0, Outcome.WAITING, at, at, due_at=at, queue=task.subscription.queue
    )


def failed(run: RunResult, failure: BaseException, policy: RetryPolicy) -> RunResult:
    """Say what becomes of a run whose handler, or whose writes, raised: again, moot or dead. Its writes are dropped."""
    ended = replace(run, writes=DeferredEffects(), reason=str(failure))
    match failure:
        case Moot():
            return replace(ended, outcome=Outcome.MOOT)
        case RetryLater(until=until) if until is not None and until <= run.finished_at:
            return replace(ended, outcome=Outcome.MOOT)
        case RetryLater():
            due_at = _later(run, failure, policy)
            ended = replace(ended, expires_at=failure.until, waits_for=failure.session_id)
        case GiveUp():
            due_at = None
        case _:
            due_at = policy.next_at(run.attempt, run.finished_at)
            ended = _with_error(ended, failure)
    if due_at is None:
        return replace(_with_error(ended, failure), outcome=Outcome.DEAD, expires_at=None, waits_for=None)
    return replace(ended, outcome=Outcome.AGAIN, due_at=due_at)


def _with_error(run: RunResult, failure: BaseException) -> RunResult:
    error = f"{type(failure).__name__}: {failure}"
    return replace(
        run, error=sanitize_text(error), traceback=sanitize_text("".join(traceback.format_exception(failure)))
    )


def _later(run: RunResult, wish: RetryLater, policy: RetryPolicy) -> datetime | None:
    """Find when a run that asked for it is tried again: up to its own end, else while it has attempts left."""
    if wish.until is None and policy.next_at(run.attempt, run.finished_at) is None:
        return None
    span = wish.after or policy.delay(run.attempt)
    if wish.session_id is not None and wish.after is None:
        span = max(span, WAIT_RECHECK)
    later = run.finished_at + span
    return later if wish.until is None else min(later, wish.until)


def max_duration(span: timedelta, calls: int, until: float) -> timedelta:
    """Say how long calls, one after the other, take at most, when none begins once `time.monotonic()` is `until`."""
    return timedelta(seconds=min(span.total_seconds() * calls, max(until - time.monotonic(), 0) + span.total_seconds()))
