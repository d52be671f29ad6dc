"""Evaluate all policies for one request without serving it: `webhooks authorize --try`."""

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
from sqlalchemy import Engine

from handlers.kit.policies import AuthorizeContext, Indeterminate, Policy
from ingest.authorize.decisions import DecisionRecord, FallbackReason
from ingest.authorize.endpoint import field_map
from ingest.authorize.response_writer import ResponseWriter
from ingest.config.settings import Settings
from ingest.wire.authorization.parsing import OCPI_END, OCPI_FOLDER, parse_request
from ingest.wire.authorization.request import Allowed, AuthorizationRequest, Decision, WireFormat
from workers.ledger.database.transaction import LedgerUnavailable
from workers.ledger.reader import LedgerReader
from workers.policies.cache import PolicyCache
from workers.policies.evaluate import PolicyContext
from workers.resilience.guarded_call import call_guarded


@dataclass(frozen=True)
class PolicyOutcome:
    """The outcome of one policy."""

    policy: Policy
    took: timedelta
    decision: Decision | None = None
    """None: it leaves the decision to the next policy, or has failed."""
    failure: FallbackReason | None = None
    error: str | None = None
    """The exception, or that it returned something else than a decision."""
    traceback: str | None = None
    notes: tuple[str, ...] = ()
    """What the policy has logged."""


@dataclass(frozen=True)
class DryRun:
    """The result of a dry run."""

    record: DecisionRecord
    outcomes: tuple[PolicyOutcome, ...]
    """In the order of the policies, including those after the one that decides."""
    response: bytes
    """The body of the response on the wire."""


def policy_contexts(engine: Engine, settings: Settings) -> tuple[Callable[[Policy], AuthorizeContext], bool]:
    """Return what makes the context of a policy, from one read of the ledger, and whether the ledger could be read."""
    cache = PolicyCache(engine, settings)
    try:
        cache.refresh()
        is_read = True
    except LedgerUnavailable:
        is_read = False
    log = structlog.get_logger()
    return (lambda policy: PolicyContext(LedgerReader(engine), cache, settings, log.bind(policy=policy.name))), is_read


def dry_run(  # noqa: PLR0913 - the parts of a request, and what evaluates it
    form: WireFormat,
    uid: str | None,
    body: bytes,
    *,
    settings: Settings,
    policies: Sequence[Policy],
    contexts: Callable[[Policy], AuthorizeContext],
) -> DryRun:
    """Call every policy in this thread, without a deadline; none for a request that cannot be parsed."""
    path = OCPI_FOLDER + quote(uid or "", safe="").encode() + OCPI_END
    request, is_readable = parse_request(
        form, path, b"", body, fields=field_map(settings), received_at=datetime.now(UTC)
    )
    started_at = time.monotonic()
    outcomes = tuple(_outcome(policy, request, contexts) for policy in policies) if is_readable else ()
    first = next((outcome for outcome in outcomes if outcome.decision or outcome.failure), None)
    failure = (first.failure if first else None) if is_readable else FallbackReason.UNREADABLE
    decision = Decision(settings.authorize_on_failure) if failure else first and first.decision
    record = DecisionRecord(
        id=uuid4().hex,
        request=request,
        decision=decision or Decision(Allowed.ALLOWED),
        policy=first.policy.name if first else None,
        failure=failure,
        answered_at=datetime.now(UTC),
        latency=timedelta(seconds=time.monotonic() - started_at),
    )
    return DryRun(record, outcomes, ResponseWriter(request.form, settings).success(record))


def _outcome(
    policy: Policy, request: AuthorizationRequest, contexts: Callable[[Policy], AuthorizeContext]
) -> PolicyOutcome:
    started_at = time.monotonic()
    with structlog.testing.capture_logs() as logs:
        returned, raised = call_guarded(_call_policy, policy, request, contexts)
    took = timedelta(seconds=time.monotonic() - started_at)
    if isinstance(raised, KeyboardInterrupt):
        raise raised
    notes = tuple(str(line.get("reason") or line["event"]) for line in logs)
    if isinstance(raised, Indeterminate):
        error = f"it cannot decide: {raised}"
        return PolicyOutcome(policy, took, failure=FallbackReason.INDETERMINATE, error=error, notes=notes)
    if raised is not None:
        error, stack = f"{type(raised).__name__}: {raised}", "".join(traceback.format_exception(raised))
        return PolicyOutcome(policy, took, failure=FallbackReason.RAISED, error=error, traceback=stack, notes=notes)
    if not isinstance(returned, Decision | None):
        error = f"it returned {type(returned).__name__} instead of a Decision"
        return PolicyOutcome(policy, took, failure=FallbackReason.RAISED, error=error, notes=notes)
    return PolicyOutcome(policy, took, returned, notes=notes)


def _call_policy(
    policy: Policy, request: AuthorizationRequest, contexts: Callable[[Policy], AuthorizeContext]
) -> object:
    returned = policy.function(request, contexts(policy))
    if not inspect.isawaitable(returned):
        return returned

    async def awaited() -> object:
        return await returned

    return asyncio.run(awaited())
