"""Call record functions on a batch without a transaction, and merge what they return into the ledger's sessions.

request -> envelope -> inbox -> relay -> jobs -> [record functions] -> ledger
"""

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from functools import partial

from sqlalchemy import Connection

from handlers.kit.merge import merge, with_clock_skew
from handlers.kit.session import Session
from ingest.events import SessionEvent
from workers.execution.run_result import HandlerCall, RunResult, failed, result_of, waiting
from workers.execution.runner import max_duration
from workers.ledger import recorded_runs, sessions
from workers.ledger.states import Outcome
from workers.resilience.guarded_call import HandlerDeadline, call_guarded
from workers.resilience.hard_timeout import kill_after
from workers.resilience.retry import RetryPolicy
from workers.resources import Resources


def fold_records(
    resources: Resources, calls: Sequence[HandlerCall], until: float = math.inf
) -> tuple[list[RunResult], dict[str, Session]]:
    """Call functions marked `@record`, each within HANDLER_TIMEOUT; return the results, and the facts by session.

    The facts are merged into the ledger's records afterwards, in any order: no transaction is open while a plugin runs.
    Calls that have not begun when `time.monotonic()` is `until` are left waiting.
    """
    facts: dict[str, Session] = {}
    results: list[RunResult] = []
    settings = resources.settings
    policy, span = RetryPolicy.of(settings), settings.handler_timeout
    with kill_after(max_duration(span, len(calls), until)), HandlerDeadline(span) as deadline:
        for call in calls:
            if time.monotonic() >= until:
                results.append(waiting(call))
                continue
            session_id = call.event.session_id or ""
            before = facts.get(session_id) or Session.empty(session_id)
            after, failure = call_guarded(deadline.call, call.subscription.apply, before, call.event)
            result = result_of(call.delivery, call.subscription.name, call.attempt, Outcome.DONE)
            results.append(result if failure is None else failed(result, failure, policy))
            if after is not None and isinstance(call.event, SessionEvent):
                received_at = call.delivery.received_at
                facts[session_id] = with_clock_skew(after, call.event.at, received_at, settings.clock_skew)
    return results, facts


def merge_facts(ledger: Connection, facts: Mapping[str, Session]) -> set[str]:
    """Merge facts into the records; return the sessions that have another driver now."""
    changed: set[str] = set()

    def update(session_id: str, session: Session) -> Session:
        after = merge(session, facts[session_id])
        if sessions.has_new_driver(session, after):
            changed.add(session_id)
        return after

    sessions.merge(ledger, {session_id: partial(update, session_id) for session_id in facts})
    return changed


def names_of_done(records: Iterable[RunResult]) -> dict[str, str]:
    """Return the names of the record functions that have succeeded on each delivery."""
    names: dict[str, list[str]] = {}
    for result in records:
        if result.outcome is Outcome.DONE:
            names.setdefault(result.delivery_id, []).append(result.handler)
    return {delivery_id: recorded_runs.join_names(handlers) for delivery_id, handlers in names.items()}
