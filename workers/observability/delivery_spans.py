"""The spans of what workers and clocks do for a delivery: its batch, its runs, its pushes, re-reads of its session.

receipt -> batch -> run -> push, and receipt -> re-read
"""

from collections.abc import Iterable
from datetime import datetime

from ingest.queue.batch import Batch
from ingest.telemetry.steps import Span, SpanKind, Step, batch_of, receipt_of, run_of
from ingest.telemetry.tracing import tracing
from ingest.wire.timestamps import utc_now
from workers.ledger.pushes import PushRow
from workers.ledger.runs import RunRecord
from workers.ledger.states import Outcome, PushState


def record_batch(batch: Batch, began_at: datetime) -> None:
    """Record a batch that was acknowledged now, a span for each delivery in it that is not a duplicate."""
    if not tracing.is_on:
        return
    ended_at = utc_now()
    about: dict[str, str | int | bool] = {
        "messaging.system": "rq",
        "messaging.destination.name": batch.queue,
        "messaging.batch.message_count": len(batch.deliveries),
        "batch": batch.id,
    }
    for each in batch.deliveries:
        if each.body is not None:
            step, parent = batch_of(each.id), receipt_of(each.id)
            tracing.record(
                Span(step, f"batch {batch.queue}", parent, began_at, ended_at, SpanKind.CONSUMER, attributes=about)
            )


def record_runs(attempts: Iterable[RunRecord]) -> None:
    """Record attempts at runs that ended."""
    if not tracing.is_on:
        return
    for each in attempts:
        if each.attempts == 0 or each.outcome is Outcome.WAITING or each.started_at is None:
            continue  # no handler was called
        tracing.record(
            Span(
                run_of(each.delivery_id, each.handler, each.attempts),
                f"run {each.handler}",
                batch_of(each.delivery_id),
                each.started_at,
                each.finished_at or each.started_at,
                error=_error_type(each),
                attributes={"handler": each.handler, "outcome": each.outcome},
            )
        )


def record_push(push: PushRow, state: PushState, began_at: datetime) -> None:
    """Record an attempt to send a push that ended now."""
    if tracing.is_on:
        tracing.record(
            Span(
                Step(push.delivery_id, f"push {push.id}", push.attempts),
                f"push {push.channel}",
                run_of(push.delivery_id, push.handler),
                began_at,
                utc_now(),
                SpanKind.CLIENT,
                error=None if state in {PushState.SENT, PushState.MOOT} else "PushFailed",
                attributes={"push": push.id, "channel": push.channel, "state": state},
            )
        )


def record_poll(delivery_id: str, attempt: int, began_at: datetime, error: str | None) -> None:
    """Record a re-read at the Drive API that ended now, of the session that a delivery began."""
    tracing.record(
        Span(
            Step(delivery_id, "re-read", attempt),
            "re-read session",
            receipt_of(delivery_id),
            began_at,
            utc_now(),
            SpanKind.CLIENT,
            error=error,
        )
    )


def _error_type(attempt: RunRecord) -> str | None:
    """Return the type of an error; its text may be anything."""
    if attempt.error is None:
        return None
    return attempt.error.partition(":")[0] if attempt.traceback is not None else str(attempt.outcome)
