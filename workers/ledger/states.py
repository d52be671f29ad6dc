"""The states of deliveries, runs and pushes."""

from enum import StrEnum

WHOLE_DELIVERY = "*"
"""In place of a handler's name when the outcome is the whole delivery's: ignored, or dead as poison."""


class DeliveryState(StrEnum):
    """How far a delivery has come. The first two are known to the inbox only: the ledger has not seen it yet."""

    KEPT = "kept"
    """On disk in an inbox, not yet on a queue."""

    QUEUED = "queued"
    """On a queue, or on its way to a worker."""

    RUNNING = "running"
    """Its records are stored; its handlers run for the first time."""

    RETRYING = "retrying"
    """A run of it is still to come: waiting for its first attempt or for another one."""

    SETTLED = "settled"
    """Every run has ended, none of them dead."""

    DEAD = "dead"
    """Every run has ended, and one at least was given up."""

    UNREADABLE = "unreadable"
    """Signed, but not understood; its bytes are kept for a person to look at."""

    @property
    def is_ended(self) -> bool:
        """Whether it has no open run."""
        return self in ENDED_STATES


class BodyDeletion(StrEnum):
    """Why the body and the headers of a delivery are deleted; its id, times and outcomes stay."""

    RETENTION = "retention"
    """It is older than RETAIN_BODIES."""

    ERASURE = "erasure"
    """Its driver or session was erased: `webhooks erase`."""


ENDED_STATES = frozenset({DeliveryState.SETTLED, DeliveryState.DEAD, DeliveryState.UNREADABLE})


class Outcome(StrEnum):
    """How one handler's run on one delivery stands."""

    WAITING = "waiting"
    """Not tried yet: it is due in a job of its own."""

    RUNNING = "running"
    """A worker has claimed it and runs its handler."""

    AGAIN = "again"
    """Tried, and to be tried again when it is due."""

    DONE = "done"
    """Returned; its effects stand."""

    DEAD = "dead"
    """Given up: a dead letter, until a person replays it."""

    IGNORED = "ignored"
    """Nothing to do: no handler takes this event."""

    MOOT = "moot"
    """Too late, or not needed any more."""

    @property
    def is_final(self) -> bool:
        """Whether nothing more happens by itself."""
        return self not in OPEN_OUTCOMES


OPEN_OUTCOMES = frozenset({Outcome.WAITING, Outcome.RUNNING, Outcome.AGAIN})
FINAL_OUTCOMES = tuple(outcome for outcome in Outcome if outcome.is_final)


class PushState(StrEnum):
    """How a push to a driver stands."""

    WAITING = "waiting"
    """To be sent when it is due."""

    SENT = "sent"
    """Taken by the channel."""

    MOOT = "moot"
    """Not needed any more, so not sent."""

    EXPIRED = "expired"
    """Its time had passed before it could be sent."""

    DEAD = "dead"
    """The channel refused it for good, or too often."""
