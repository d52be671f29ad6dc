"""The interface between the authorization endpoint and whatever evaluates policies."""

from dataclasses import dataclass
from typing import Protocol

from ingest.authorize.decision_record import FallbackReason
from ingest.wire.authorization.request import AuthorizationRequest, Decision


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


class AllowAllEvaluator:
    """The evaluator without policies: no request has a decision, so every key may charge."""

    async def start(self) -> None:
        """Do nothing."""

    async def stop(self) -> None:
        """Do nothing."""

    async def evaluate(self, request: AuthorizationRequest, deadline: float) -> PolicyResult:  # noqa: ARG002 - the signature is the protocol's
        """Return no decision."""
        return PolicyResult()

    def status(self) -> EvaluatorStatus:
        """Return a state in which no process is wanted."""
        return EvaluatorStatus(0, 0)
