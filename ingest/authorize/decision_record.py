"""What was answered at a charger, and how it came about, for the ledger, the log and the numbers."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Protocol

from ingest.wire.authorization.request import AuthorizationRequest, Decision


class FallbackReason(StrEnum):
    """Why AUTHORIZE_ON_FAILURE was answered, and not what a policy says."""

    TIMEOUT = "late"
    """A policy was not done in time."""
    RAISED = "raised"
    """A policy raised an exception, or returned what is no decision."""
    INDETERMINATE = "too_little_known"
    """A policy knew too little to decide, and AUTHORIZE_WITHOUT_FACTS says that this is a failure."""
    CIRCUIT_OPEN = "spared"
    """A policy has failed so often that it is left alone for a while."""
    UNREADABLE = "unreadable"
    """The body was no JSON object."""
    SLOW_BODY = "slow_body"
    """The body was not complete in time."""
    CRASHED = "broken"
    """Something else of ours broke: no process was there to ask policies in, for instance."""


@dataclass(frozen=True, slots=True)
class DecisionRecord:
    """One answer that has been sent."""

    id: str
    """32 hexadecimal digits, new for every answer; OCPI's `authorization_reference`, too."""
    question: AuthorizationRequest
    decision: Decision
    policy: str | None
    """Who decided, or was to decide and failed; None if no policy had anything to say."""
    failure: FallbackReason | None
    """Why it is AUTHORIZE_ON_FAILURE; None if it is a decision."""
    answered_at: datetime
    latency: timedelta
    """From the first byte of the request to the answer."""
    repeats: str | None = None
    """The id of the answer that this one repeats, as the same request had come before."""


class DecisionRecorder(Protocol):
    """Keeps verdicts. It is told after the answer was sent, on the loop that answers, and must return at once."""

    def record(self, verdict: DecisionRecord) -> None:
        """Take a verdict to be kept; drop it and count that, rather than wait, when there is no room."""

    def start(self) -> None:
        """Begin; called before the first request."""

    def stop(self) -> None:
        """Keep what is still waiting, for a few seconds at most; called in a thread when the process ends."""
