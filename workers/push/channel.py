"""What a push channel is."""

from typing import Protocol

from ingest.errors import WebhooksError
from workers.ledger.pushes import PushRow


class PushFailed(WebhooksError):
    """Raised when a channel could not hand a push on; `retryable` if trying again may help."""

    def __init__(self, sentence: str, *, retryable: bool) -> None:
        super().__init__(sentence)
        self.retryable = retryable


class Channel(Protocol):
    """One way to a driver's phone."""

    def send(self, push: PushRow) -> None:
        """Hand a push to whoever shows it; raise PushFailed if that was not taken.

        Called at least once for each push: a provider folds repeats by `collapse_key`.
        """
