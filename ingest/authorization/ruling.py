"""What policies come to, and whoever asks them on behalf of the lane: it is handed in from above."""

from dataclasses import dataclass
from typing import Protocol

from ingest.authorization.verdict import Failure
from ingest.wire.authorization.request import AuthorizationRequest, Decision


@dataclass(frozen=True, slots=True)
class Ruling:
    """What asking the policies came to."""

    decision: Decision | None = None
    """What one of them says; None if none of them has anything to say, or one has failed."""
    policy: str | None = None
    """Which it was that decided, or failed."""
    failure: Failure | None = None
    error: str = ""
    """The type of what it raised; not its words, which may name the driver. Or of what it knew too little."""


@dataclass(frozen=True, slots=True)
class JudgesStanding:
    """How those are who ask policies."""

    wanted: int
    ready: int
    spared: tuple[str, ...] = ()
    """Policies that are left alone for a while, because they failed so often."""


class Judges(Protocol):
    """Ask policies, never on the loop that answers."""

    async def start(self) -> None:
        """Begin."""

    async def stop(self) -> None:
        """End, whatever a policy is doing."""

    async def decide(self, question: AuthorizationRequest, until: float) -> Ruling:
        """Ask policies in their order; give up when `time.monotonic()` is `until`. Raises nothing."""

    def standing(self) -> JudgesStanding:
        """Say how they are."""


class NoJudges:
    """Stand where there are no policies: nobody has anything to say."""

    async def start(self) -> None:
        """Begin nothing."""

    async def stop(self) -> None:
        """End nothing."""

    async def decide(self, question: AuthorizationRequest, until: float) -> Ruling:  # noqa: ARG002 - as judges are asked
        """Say nothing."""
        return Ruling()

    def standing(self) -> JudgesStanding:
        """Say that nobody is wanted."""
        return JudgesStanding(0, 0)
