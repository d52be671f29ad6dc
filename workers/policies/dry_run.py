"""Policies, tried out on one question: what each of them says, what the decision is, and what would be answered."""

import asyncio
import inspect
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from urllib.parse import quote
from uuid import uuid4

import structlog

from handlers.kit.policies import AuthorizeContext, Policy
from handlers.kit.policy_support import Indeterminate
from ingest.authorize.decision_record import DecisionRecord, FallbackReason
from ingest.authorize.endpoint import field_map
from ingest.authorize.responses import ResponseWriter
from ingest.config.settings import Settings
from ingest.errors import Unreadable
from ingest.wire.authorization.parsing import OCPI_END, OCPI_FOLDER, parse_ocpi, parse_plugsurfing
from ingest.wire.authorization.request import Allowed, AuthorizationRequest, Decision, WireFormat
from workers.resilience.guarded_call import call_guarded


@dataclass(frozen=True)
class PolicyOutcome:
    """What one policy said."""

    policy: Policy
    took: timedelta
    decision: Decision | None = None
    """None: it leaves it to the next one, or has failed."""
    failure: FallbackReason | None = None
    error: str | None = None
    """What it raised, or that it returned what is no decision."""
    traceback: str | None = None
    notes: tuple[str, ...] = ()
    """What it has logged."""


@dataclass(frozen=True)
class DryRun:
    """What came of trying."""

    verdict: DecisionRecord
    says: tuple[PolicyOutcome, ...]
    """In the order in which policies are asked; those after the one that decides are asked as well."""
    answer: bytes
    """The body that would go out on the wire."""


def read_question(
    form: WireFormat, uid: str | None, body: bytes, settings: Settings
) -> tuple[AuthorizationRequest, bool]:
    """Read a question from a body as the lane does; say whether it can be read."""
    now = datetime.now(UTC)
    try:
        if form is WireFormat.OCPI:
            return parse_ocpi(OCPI_FOLDER + quote(uid or "", safe="").encode() + OCPI_END, b"", body, now), True
        return parse_plugsurfing(body, field_map(settings), now), True
    except Unreadable:
        return AuthorizationRequest(form, now), False


def dry_run(
    question: AuthorizationRequest,
    settings: Settings,
    policies: Sequence[Policy],
    contexts: Callable[[Policy], AuthorizeContext],
    *,
    can_be_read: bool = True,
) -> DryRun:
    """Ask every policy here and now, for as long as that takes; about what cannot be read nobody is asked."""
    begun = time.monotonic()
    says = tuple(_ask(policy, question, contexts) for policy in policies) if can_be_read else ()
    first = next((say for say in says if say.decision or say.failure), None)
    decision, failure = (first and first.decision) or Decision(Allowed.ALLOWED), None
    if not can_be_read:
        decision, failure = Decision(settings.authorize_on_failure), FallbackReason.UNREADABLE
    elif first is not None and first.failure is not None:
        decision, failure = Decision(settings.authorize_on_failure), first.failure
    verdict = DecisionRecord(
        id=uuid4().hex,
        question=question,
        decision=decision,
        policy=first.policy.name if first else None,
        failure=failure,
        answered_at=datetime.now(UTC),
        latency=timedelta(seconds=time.monotonic() - begun),
    )
    return DryRun(verdict, says, ResponseWriter(question.form, settings).answer(verdict))


def _ask(
    policy: Policy, question: AuthorizationRequest, contexts: Callable[[Policy], AuthorizeContext]
) -> PolicyOutcome:
    begun = time.monotonic()
    with structlog.testing.capture_logs() as logs:
        said, raised = call_guarded(_call_policy, policy, question, contexts)
    took = timedelta(seconds=time.monotonic() - begun)
    if isinstance(raised, KeyboardInterrupt):
        raise raised
    notes = tuple(str(line.get("reason") or line["event"]) for line in logs)
    if isinstance(raised, Indeterminate):
        failure, words = FallbackReason.INDETERMINATE, f"too little is known: {raised}"
        return PolicyOutcome(policy, took, failure=failure, error=words, notes=notes)
    if raised is not None:
        words, stack = f"{type(raised).__name__}: {raised}", "".join(traceback.format_exception(raised))
        return PolicyOutcome(policy, took, failure=FallbackReason.RAISED, error=words, traceback=stack, notes=notes)
    if not isinstance(said, Decision | None):
        words = f"it returned {type(said).__name__}, and no Decision"
        return PolicyOutcome(policy, took, failure=FallbackReason.RAISED, error=words, notes=notes)
    return PolicyOutcome(policy, took, said, notes=notes)


def _call_policy(
    policy: Policy, question: AuthorizationRequest, contexts: Callable[[Policy], AuthorizeContext]
) -> object:
    said = policy.function(question, contexts(policy))
    if not inspect.isawaitable(said):
        return said

    async def awaited() -> object:
        return await said

    return asyncio.run(awaited())
