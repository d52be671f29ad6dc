"""What a handler raises to end its run otherwise than done: signals, not errors."""

from datetime import datetime, timedelta

MAX_DELAY = timedelta(days=3650)
"""The longest delay: a run may ask for it again, and no time lies beyond the calendar."""


def clamp_delay(after: timedelta | None) -> timedelta | None:
    """Limit a delay to MAX_DELAY. Raise TypeError if it is not a timedelta."""
    return None if after is None else min(max(after, -MAX_DELAY), MAX_DELAY)


class Signal(Exception):
    """The base of the signals: a reason, one sentence that an operator reads beside the run."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class RetryLater(Signal):
    """Raised when the run cannot be finished yet; it is tried again, and its writes are discarded.

    Tried again after `after`, else by the retry policy. With `session_id` also as soon as that session has a new event.
    Once `until` has passed the run ends moot, with this reason.
    """

    def __init__(
        self,
        reason: str,
        *,
        after: timedelta | None = None,
        until: datetime | None = None,
        session_id: str | None = None,
    ) -> None:
        if until is not None and until.tzinfo is None:
            raise ValueError("until= needs a time zone")
        super().__init__(reason)
        self.after = clamp_delay(after)
        self.until = until
        self.session_id = session_id


class GiveUp(Signal):
    """Raised when trying again cannot help: the run is dead at once, a dead letter for a person."""


class Moot(Signal):
    """Raised when there is nothing left to do: the run ends moot, and its writes are discarded."""
