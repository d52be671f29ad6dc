"""What a handler raises to say how its run goes on: signals, not errors."""

from datetime import datetime, timedelta

MAX_DELAY = timedelta(days=3650)
"""A longer wait counts as this one: what asks for it may do so again, and no time lies beyond the calendar."""


def clamp_delay(after: timedelta | None) -> timedelta | None:
    """Shorten a wait that somebody asks for. Raise TypeError, where they ask, if it is no span of time."""
    return None if after is None else min(max(after, -MAX_DELAY), MAX_DELAY)


class Signal(Exception):
    """What the signals have in common: a reason, one sentence that an operator reads beside the run."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class RetryLater(Signal):
    """Raised when the run cannot be finished yet; it is tried again, and nothing it wrote is kept.

    Tried again after `after`, else as the retry policy says. With `session_id` also as soon as that session has news.
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
            raise ValueError("until= needs a time zone, or nobody knows when it has passed")
        super().__init__(reason)
        self.after = clamp_delay(after)
        self.until = until
        self.session_id = session_id


class GiveUp(Signal):
    """Raised when trying again cannot help: the run is dead at once, a dead letter for a person to look at."""


class Moot(Signal):
    """Raised when there is nothing left to do, which is all right: the run ends moot, nothing it wrote is kept."""
