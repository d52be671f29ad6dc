"""Call handlers on deliveries, each within its time, whatever a handler does.

request -> envelope -> inbox -> relay -> jobs -> [runner] -> handler -> ledger
"""

import asyncio
import contextvars
import functools
import math
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog
from rq.timeouts import JobTimeoutException

from handlers.kit.context import Context, Reader
from ingest.config.settings import Settings
from ingest.events import SessionEvent
from ingest.telemetry.steps import run_of
from ingest.telemetry.tracing import tracing
from ingest.wire.timestamps import utc_now
from workers.execution.handler_durations import timed
from workers.execution.run_result import HandlerCall, RunResult, failed, waiting
from workers.ledger.states import Outcome
from workers.observability.work_metrics import count_run_time
from workers.resilience.guarded_call import HandlerDeadline, call_guarded
from workers.resilience.hard_timeout import kill_after
from workers.resilience.retry import RetryPolicy

log = structlog.get_logger()

NOT_TRACED = nullcontext()


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


def max_duration(span: timedelta, calls: int, until: float) -> timedelta:
    """Return how long successive calls take at most, when none begins after `time.monotonic()` is `until`."""
    return timedelta(seconds=min(span.total_seconds() * calls, max(until - time.monotonic(), 0) + span.total_seconds()))
