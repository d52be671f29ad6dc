"""What policies come to, and whoever asks them on behalf of the lane: it is handed in from above."""

from dataclasses import dataclass
from typing import Protocol

from ingest.authorize.decision_record import FallbackReason
from ingest.wire.authorization.request import AuthorizationRequest, Decision


@dataclass(frozen=True, slots=True)
class PolicyResult:
    """What asking the policies came to."""

    decision: Decision | None = None
    """What one of them says; None if none of them has anything to say, or one has failed."""
    policy: str | None = None
    """Which it was that decided, or failed."""
    failure: FallbackReason | None = None
    error: str = ""
    """The type of what it raised; not its words, which may name the driver. Or of what it knew too little."""


@dataclass(frozen=True, slots=True)
class EvaluatorStatus:
    """How those are who ask policies."""

    wanted: int
    ready: int
    open_circuits: tuple[str, ...] = ()
    """Policies that are left alone for a while, because they failed so often."""


class PolicyEvaluator(Protocol):
    """Ask policies, never on the loop that answers."""

    async def start(self) -> None:
        """Begin."""

    async def stop(self) -> None:
        """End, whatever a policy is doing."""

    async def evaluate(self, question: AuthorizationRequest, until: float) -> PolicyResult:
        """Ask policies in their order; give up when `time.monotonic()` is `until`. Raises nothing."""

    def status(self) -> EvaluatorStatus:
        """Say how they are."""


class AllowAllEvaluator:
    """Stand where there are no policies: nobody has anything to say."""

    async def start(self) -> None:
        """Begin nothing."""

    async def stop(self) -> None:
        """End nothing."""

    async def evaluate(self, question: AuthorizationRequest, until: float) -> PolicyResult:  # noqa: ARG002 - as judges are asked
        """Say nothing."""
        return PolicyResult()

    def status(self) -> EvaluatorStatus:
        """Say that nobody is wanted."""
        return EvaluatorStatus(0, 0)
