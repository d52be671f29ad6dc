"""Run handlers on a delivery and commit nothing: what they would write and push, and how that differs from the past.

delivery -> [handlers] -> report
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVarTuple

from sqlalchemy import ClauseElement, Row
from sqlalchemy.sql.selectable import TypedReturnsRows

from handlers.kit.channel import Device
from handlers.kit.context import DeferredStatement, Reader
from handlers.kit.merge import merge
from handlers.kit.session import Session
from handlers.kit.subscriptions import Subscription
from ingest.config.settings import Settings
from ingest.events import Event
from ingest.queue.batch import Delivery
from workers.execution.run_result import HandlerCall, RunResult
from workers.execution.runner import Runner
from workers.ledger.pushes import PushRow
from workers.ledger.runs import RunRecord

Columns = TypeVarTuple("Columns")

SHOWN = ("user_id", "title", "body", "session_id", "expires_at")
"""What of a push is compared, beside its collapse key."""


@dataclass(frozen=True)
class EarlierRun:
    """What a handler did with a delivery when it came."""

    run: RunRecord | None
    """None if it has no run of the delivery: it is new."""
    pushes: tuple[PushRow, ...] = ()


@dataclass(frozen=True)
class HandlerDryRun:
    """What a handler would do with a delivery."""

    delivery: Delivery
    event: Event
    result: RunResult
    before: EarlierRun | None = None
    """None: it is not a delivery of the ledger."""

    @property
    def has_failed(self) -> bool:
        """Whether the handler raised what is no signal."""
        return self.result.error is not None

    @property
    def statements(self) -> tuple[str, ...]:
        """The statements that it would execute."""
        return tuple(map(statement_text, self.result.writes.written))

    @property
    def differences(self) -> tuple[str, ...]:
        """How that differs from what it did, a line each."""
        return () if self.before is None else tuple(differences(self.before, self.result))


@dataclass(frozen=True)
class ReaderWithSession:
    """Reads what another reader does, as if the facts of one more event were in its session."""

    reader: Reader
    facts: Session

    def session(self, session_id: str) -> Session | None:
        """Return the record of a session."""
        known = self.reader.session(session_id)
        if session_id != self.facts.session_id:
            return known
        return self.facts if known is None else merge(known, self.facts)

    def read(self, statement: TypedReturnsRows[*Columns]) -> list[Row[*Columns]]:
        """Run a SELECT."""
        return self.reader.read(statement)

    def devices(self, user_id: str) -> Sequence[Device]:
        """List a user's devices."""
        return self.reader.devices(user_id)


def dry_run_handlers(  # noqa: PLR0913 - what a run needs, by name
    handlers: Iterable[Subscription],
    event: Event,
    delivery: Delivery,
    *,
    reader: Reader,
    settings: Settings,
    clock: Callable[[], datetime],
    before: Mapping[str, EarlierRun] | None = None,
) -> list[HandlerDryRun]:
    """Call the handlers of the event, each once. What one does beside its context, a call of its own, is really done.

    The clock is what `ctx.now()` is. `before` has what each handler did, by name.
    """
    calls = [HandlerCall(each, event, delivery) for each in handlers if _is_taker(each, event, delivery)]
    return [
        HandlerDryRun(
            delivery,
            event,
            result,
            None if before is None else before.get(result.handler, EarlierRun(None)),
        )
        for result in Runner(reader, settings, clock).run_all(calls)
    ]


def _is_taker(each: Subscription, event: Event, delivery: Delivery) -> bool:
    return not each.records and each.matches(event) and each.accepts(delivery)


def with_record_of(event: Event, records: Iterable[Subscription], reader: Reader) -> Reader:
    """Return a reader that knows what the event says of its session, by the functions marked `@record`."""
    if event.session_id is None:
        return reader
    facts = Session.empty(event.session_id)
    for each in records:
        if each.matches(event):
            facts = each.apply(facts, event)
    return ReaderWithSession(reader, facts)


def statement_text(deferred: DeferredStatement) -> str:
    """Return a statement with its values, in one line."""
    bound = deferred.statement.compile().params if isinstance(deferred.statement, ClauseElement) else {}
    values = {**bound, **(deferred.values or {})}
    text = " ".join(str(deferred.statement).split())
    return f"{text}  {values}" if values else text


def differences(before: EarlierRun, now: RunResult) -> Iterator[str]:
    """Yield how a run differs from the one of the past, a line each."""
    if before.run is None:
        yield "it is new: it did not run then"
    elif before.run.outcome is not now.outcome:
        yield f"outcome: {_outcome(before.run)} → {_outcome(now)}"
    made = {(push.user_id, push.collapse_key): push for push in before.pushes}
    wanted = {(push.user_id, push.collapse_key): push for push in now.writes.pushes}
    for key, push in wanted.items():
        earlier = made.get(key)
        if earlier is None:
            yield f"+ push {push.collapse_key}: {push.title}"
            continue
        for name in SHOWN:
            old, new = getattr(earlier, name), getattr(push, name)
            if old != new:
                yield f"~ push {push.collapse_key}: {name} {old!s} → {new!s}"
    for key in made.keys() - wanted.keys():
        yield f"- push {made[key].collapse_key}: {made[key].title}"


def _outcome(run: RunRecord) -> str:
    return run.outcome.value if run.reason is None else f"{run.outcome.value} ({run.reason})"
