"""What evaluates policies and what records decisions: the interfaces that the authorization endpoint uses."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Protocol

from ingest.wire.authorization.request import AuthorizationRequest, Decision


class FallbackReason(StrEnum):
    """Why AUTHORIZE_ON_FAILURE was answered instead of the decision of a policy."""

    TIMEOUT = "late"
    """A policy did not return in time."""
    RAISED = "raised"
    """A policy raised an exception, or returned something else than a decision."""
    INDETERMINATE = "too_little_known"
    """A policy lacked what it needs to decide, and AUTHORIZE_WITHOUT_FACTS makes that a failure."""
    CIRCUIT_OPEN = "spared"
    """A policy failed so often that its circuit breaker is open."""
    UNREADABLE = "unreadable"
    """The body is not a JSON object."""
    SLOW_BODY = "slow_body"
    """The body was not complete in time."""
    CRASHED = "broken"
    """Another internal failure: no policy process was available, for instance."""


@dataclass(frozen=True)
class PolicyResult:
    """The result of evaluating the policies for one request."""

    decision: Decision | None = None
    """None if no policy decided, or one failed."""
    policy: str | None = None
    """The policy that decided or failed."""
    failure: FallbackReason | None = None
    error: str = ""
    """The type of the exception, whose text may name the driver; or what an indeterminate policy lacked."""


@dataclass(frozen=True, slots=True)
class EvaluatorStatus:
    """The state of an evaluator."""

    wanted: int
    """The number of policy processes that should be ready."""
    ready: int
    open_circuits: tuple[str, ...] = ()
    """The policies that are not called for a while, because they failed so often."""


class PolicyEvaluator(Protocol):
    """Evaluates policies, never on the event loop that answers."""

    async def start(self) -> None:
        """Start; called before the first request."""

    async def stop(self) -> None:
        """Stop, whatever a policy is doing."""

    async def evaluate(self, request: AuthorizationRequest, deadline: float) -> PolicyResult:
        """Evaluate the policies in their order until `deadline`, on `time.monotonic()`. Raises nothing."""

    def status(self) -> EvaluatorStatus:
        """Return the current state."""


@dataclass(frozen=True, slots=True)
class DecisionRecord:
    """One response that has been sent, for the ledger, the log and the metrics."""

    id: str
    """32 hexadecimal digits, new for every response; also OCPI's `authorization_reference`."""
    request: AuthorizationRequest
    decision: Decision
    policy: str | None
    """The policy that decided or failed; None if no policy had a decision."""
    failure: FallbackReason | None
    """Why the decision is AUTHORIZE_ON_FAILURE; None if it is that of a policy."""
    answered_at: datetime
    latency: timedelta
    """From the first byte of the request to the response."""
    repeats: str | None = None
    """The id of the response that this one repeats, because the same request had come before."""


class DecisionRecorder(Protocol):
    """Stores the records of decisions."""

    def record(self, record: DecisionRecord) -> None:
        """Accept a record to be stored, or drop and count it when there is no room. Never waits, never raises.

        Called on the event loop, after the response was sent.
        """

    def start(self) -> None:
        """Start; called in a thread before the first request."""

    def stop(self) -> None:
        """Store what is still buffered, within a few seconds; called in a thread at shutdown."""
