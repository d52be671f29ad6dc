"""Call one handler on one delivery, and work out the outcome of its run, whatever the handler does.

request -> envelope -> inbox -> relay -> jobs -> [runner] -> handler -> ledger
"""

import asyncio
import contextvars
import functools
import logging
import math
import os
import time
import traceback
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

import structlog
from rq.timeouts import JobTimeoutException

from handlers.kit.context import Context, DeferredEffects, Reader
from handlers.kit.session import Session
from handlers.kit.signals import GiveUp, Moot, RetryLater
from handlers.kit.subscriptions import Subscription
from ingest.config.settings import Settings
from ingest.events import Event, SessionEvent, sanitize_text
from ingest.queue.batch import Delivery
from ingest.queue.queues import BACKGROUND
from ingest.telemetry.steps import run_of
from ingest.telemetry.tracing import tracing
from ingest.wire.timestamps import utc_now
from workers.execution.handler_durations import is_slow, timed
from workers.ledger.runs import RunRecord
from workers.ledger.states import Outcome
from workers.observability.work_metrics import count_run_time
from workers.resilience.guarded_call import HandlerDeadline, call_guarded
from workers.resilience.hard_timeout import kill_after
from workers.resilience.retry import RetryPolicy

log = structlog.get_logger()

NO_EFFECTS = DeferredEffects()
NOT_TRACED = nullcontext()
MAX_CAUSES = 5
"""Causes of an exception, of causes of exceptions, in a log line."""

WAIT_RECHECK = timedelta(minutes=1)
"""When a run that waits for news of a session is tried again without any: news wakes it sooner."""


@dataclass(frozen=True)
class HandlerCall:
    """A handler to be called on the event of a delivery; `attempt` counts from 1."""

    subscription: Subscription
    event: Event
    delivery: Delivery
    attempt: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult(RunRecord):
    """What came of an attempt at a run, and what its handler asked for."""

    started_at: datetime = field(default_factory=utc_now)
    finished_at: datetime = field(default_factory=utc_now)
    writes: DeferredEffects = NO_EFFECTS
    """Empty unless the outcome is done."""
    sessions_read: Mapping[str, Session | None] = field(default_factory=dict)
    """The sessions that the handler read, as it saw them."""
    stack: str | None = None
    """The traceback of its error for the log: without texts of exceptions, which may be bodies or name drivers."""
    event_at: datetime | None = None
    """The event's own time, of an event of a session."""


@dataclass(frozen=True)
class Runner:
    """Calls handlers, each within HANDLER_TIMEOUT; async ones concurrently, up to HANDLER_CONCURRENCY."""

    reader: Reader
    settings: Settings
    clock: Callable[[], datetime] = utc_now

    def run_all(self, calls: Sequence[HandlerCall], until: float = math.inf) -> list[RunResult]:
        """Make every call; a failure is the result of its own call only.

        Calls that have not begun when `time.monotonic()` is `until` are left waiting, for jobs of their own.
        """
        results = [self._run(call, until) for call in calls if not call.subscription.is_async]
        concurrent = [call for call in calls if call.subscription.is_async]
        if concurrent:
            rounds = -(-len(concurrent) // self.settings.handler_concurrency)
            longest = max_duration(self.settings.handler_timeout, rounds, until)
            with kill_after(longest):  # a handler that blocks the event loop cannot be cancelled
                context = contextvars.copy_context()
                results += event_loop(os.getpid()).run(self._run_concurrently(concurrent, until), context=context)
        return results

    def _run(self, call: HandlerCall, until: float) -> RunResult:
        if time.monotonic() >= until:
            return waiting(call)
        started_at, context = self.clock(), self._context(call)
        with timed(call.subscription.name):
            _, failure = call_guarded(self._call_in_time, call, context)
        return self._result(call, context, started_at, failure)

    def _call_in_time(self, call: HandlerCall, context: Context) -> None:
        span = self.settings.handler_timeout
        with kill_after(span), HandlerDeadline(span) as deadline, _current_span(call):
            deadline.call(call.subscription.function, call.event, context)

    async def _run_concurrently(self, calls: Sequence[HandlerCall], until: float) -> list[RunResult]:
        limit = asyncio.Semaphore(self.settings.handler_concurrency)

        async def run_one(call: HandlerCall) -> RunResult:
            async with limit:
                if time.monotonic() >= until:
                    return waiting(call)
                started_at, context = self.clock(), self._context(call)
                # Unlike `try`, it tells a cancellation that the handler raises from one of this task.
                with timed(call.subscription.name):
                    (failure,) = await asyncio.gather(self._call_async(call, context), return_exceptions=True)
                if isinstance(failure, JobTimeoutException):
                    raise failure
                return self._result(call, context, started_at, failure)

        try:
            return await asyncio.gather(*(run_one(call) for call in calls))
        finally:
            await _cancel_other_tasks()

    async def _call_async(self, call: HandlerCall, context: Context) -> None:
        process, timeout = os.getpid(), asyncio.timeout(self.settings.handler_timeout.total_seconds())
        try:
            async with timeout:
                with _current_span(call):
                    called = call.subscription.function(call.event, context)
                    if isinstance(called, Awaitable):
                        await called
        except (SystemExit, KeyboardInterrupt) as exit_request:
            # The event loop would end with either, and with it the other handlers.
            raise RuntimeError(f"the handler raised {type(exit_request).__name__}") from exit_request
        finally:
            if os.getpid() != process:  # a copy that the handler forked, as in `HandlerDeadline.call`
                os._exit(0)
            HandlerDeadline.overruns += timeout.expired()

    def _context(self, call: HandlerCall) -> Context:
        return Context(
            delivery=call.delivery,
            reader=self.reader,
            attempt=call.attempt,
            clock=self.clock,
            log=log.bind(delivery=call.delivery.id, handler=call.subscription.name, attempt=call.attempt),
            settings=self.settings,
        )

    def _result(
        self, call: HandlerCall, context: Context, started_at: datetime, failure: BaseException | None
    ) -> RunResult:
        run = RunResult(
            delivery_id=call.delivery.id,
            handler=call.subscription.name,
            attempts=call.attempt,
            outcome=Outcome.DONE,
            started_at=started_at,
            finished_at=self.clock(),
            writes=context.writes,
            sessions_read=context.sessions_read,
            event_at=call.event.at if isinstance(call.event, SessionEvent) else None,
        )
        count_run_time(run.handler, run.finished_at - run.started_at)
        return run if failure is None else failed(run, failure, RetryPolicy.of(self.settings))


def _current_span(call: HandlerCall) -> AbstractContextManager[None]:
    """Make the run the current span of its trace: what libraries record in the handler is below it."""
    if not tracing.is_on:
        return NOT_TRACED
    return tracing.activate(run_of(call.delivery.id, call.subscription.name, call.attempt))


@functools.cache
def event_loop(process: int) -> asyncio.Runner:  # noqa: ARG001 - a forked one cannot use its parent's
    """Return what runs async handlers in this process: a client that a plugin keeps works in one event loop only."""
    return asyncio.Runner()


async def _cancel_other_tasks() -> None:
    """Cancel what handlers have left running, as the end of an event loop would, and wait for it."""
    left = asyncio.all_tasks() - {asyncio.current_task()}
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)


def waiting(call: HandlerCall, queue: str | None = None) -> RunResult:
    """Return the result of a call that is left to another job, on that queue unless its handler has one or is slow."""
    handler = call.subscription.name
    return RunResult(
        delivery_id=call.delivery.id,
        handler=handler,
        attempts=call.attempt - 1,
        outcome=Outcome.WAITING,
        due_at=utc_now(),
        queue=BACKGROUND if is_slow(handler) else call.subscription.queue or queue,
    )


def failed(run: RunResult, failure: BaseException, policy: RetryPolicy) -> RunResult:
    """Return the result of a run whose handler or writes raised: again, moot or dead, always without effects."""
    ended = replace(run, writes=NO_EFFECTS, reason=str(failure))
    match failure:
        case Moot():
            return replace(ended, outcome=Outcome.MOOT)
        case RetryLater(until=until) if until is not None and until <= run.finished_at:
            return replace(ended, outcome=Outcome.MOOT)
        case RetryLater():
            due_at = _retry_at(run, failure, policy)
            ended = replace(ended, until_at=failure.until, waits_for=failure.session_id)
        case GiveUp():
            due_at = None
        case _:
            due_at = policy.next_at(run.attempts, run.finished_at)
            ended = _with_error(ended, failure)
    if due_at is None:
        return replace(_with_error(ended, failure), outcome=Outcome.DEAD, until_at=None, waits_for=None)
    # What failed goes behind what is new. Who waits for news of a session is no failure, and may be urgent.
    return replace(ended, outcome=Outcome.AGAIN, due_at=due_at, queue=None if ended.waits_for else BACKGROUND)


def _with_error(run: RunResult, failure: BaseException) -> RunResult:
    trace = "".join(traceback.format_exception(failure))
    error = sanitize_text(f"{type(failure).__name__}: {failure}")
    return replace(run, error=error, traceback=sanitize_text(trace), stack=format_stack(failure))


def _retry_at(run: RunResult, signal: RetryLater, policy: RetryPolicy) -> datetime | None:
    """Return when a run is tried again; None if no attempt is left. With `until` attempts are not limited."""
    if signal.until is None and policy.next_at(run.attempts, run.finished_at) is None:
        return None
    span = signal.after or policy.delay(run.attempts)
    if signal.session_id is not None and signal.after is None:
        span = max(span, WAIT_RECHECK)
    later = run.finished_at + span
    return later if signal.until is None else min(later, signal.until)


def max_duration(span: timedelta, calls: int, until: float) -> timedelta:
    """Return how long successive calls take at most, when none begins after `time.monotonic()` is `until`."""
    return timedelta(seconds=min(span.total_seconds() * calls, max(until - time.monotonic(), 0) + span.total_seconds()))


def format_stack(failure: BaseException) -> str:
    """Format a traceback without the texts of its exceptions, the cause of each before it."""
    parts: list[str] = []
    current: BaseException | None = failure
    while current is not None and len(parts) < MAX_CAUSES:
        frames = "".join(traceback.format_tb(current.__traceback__))
        parts.append(f"Traceback (most recent call last):\n{frames}{type(current).__name__}")
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)
    return "\n\n".join(reversed(parts))


def log_failures(results: Iterable[RunResult]) -> None:
    """Log each failed attempt in one line, the first and the last with a traceback; to be called after the commit."""
    for each in results:
        if each.error is None:
            continue
        is_last = each.outcome is Outcome.DEAD
        log.log(
            logging.ERROR if is_last else logging.WARNING,
            "run.failed",
            handler=each.handler,
            delivery=each.delivery_id,
            attempt=each.attempts,
            error=each.reason if each.stack is None else each.error.partition(":")[0],
            outcome=each.outcome.value,
            next_attempt_at=None if each.due_at is None else each.due_at.isoformat(timespec="seconds"),
            **({"exception": each.stack} if each.stack and (is_last or each.attempts == 1) else {}),
        )
