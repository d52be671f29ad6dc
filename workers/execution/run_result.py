"""What comes of the call of a handler: done, again, moot or dead, and what it asked for.

request -> envelope -> inbox -> relay -> jobs -> runner -> [result] -> ledger
"""

import logging
import traceback
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

import structlog

from handlers.kit.context import DeferredEffects
from handlers.kit.session import Session
from handlers.kit.signals import GiveUp, Moot, RetryLater
from handlers.kit.subscriptions import Subscription
from ingest.events import Event, sanitize_text
from ingest.queue.batch import Delivery
from ingest.queue.queues import BACKGROUND
from ingest.wire.timestamps import utc_now
from workers.execution.handler_durations import is_slow
from workers.ledger.runs import RunRecord
from workers.ledger.session_erasure import ERASED
from workers.ledger.states import Outcome
from workers.resilience.retry import RetryPolicy

log = structlog.get_logger()

NO_EFFECTS = DeferredEffects()
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


def result_of(delivery: Delivery, handler: str, attempt: int, outcome: Outcome, reason: str | None = None) -> RunResult:
    """Return the result of a run that took no time, as of now."""
    at = utc_now()
    return RunResult(
        delivery_id=delivery.id,
        handler=handler,
        attempts=attempt,
        outcome=outcome,
        reason=reason,
        started_at=at,
        finished_at=at,
    )


def dead_result(delivery: Delivery, handler: str, attempt: int, reason: str) -> RunResult:
    """Return the result of a run that ends as a dead letter, without a call of its handler."""
    return replace(result_of(delivery, handler, attempt, Outcome.DEAD, reason), error=reason)


def forgotten(run: RunResult) -> RunResult:
    """Return the result of a run whose delivery was erased meanwhile: it has no effects, and no text of its error."""
    return RunResult(
        delivery_id=run.delivery_id,
        handler=run.handler,
        attempts=run.attempts,
        outcome=Outcome.MOOT,
        reason=ERASED,
        started_at=run.started_at,
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
