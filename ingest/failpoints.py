"""The steps of the path at which tests kill the process that stands there, to see that nothing is lost or done twice.

Nobody is ever killed unless WEBHOOKS_CRASHES named a folder when the process started; `reach` then costs a call.
"""

import os
import signal
import sqlite3
from enum import StrEnum
from pathlib import Path

VARIABLE = "WEBHOOKS_CRASHES"
# Steps of SQLite's own machine between two looks: few enough to fall inside of any statement that writes a row.
INSTRUCTIONS = 40


class Failpoint(StrEnum):
    """Where a delivery, a run or a push has come to."""

    RECEIVED = "received"
    """Its body is read; nothing is known of it."""
    VERIFIED = "verified"
    """Its signature is right; it is not written yet."""
    KEEPING = "keeping"
    """Inside the statement, or the transaction, that writes it to the inbox."""
    KEPT = "kept"
    """Committed, and on disk; nobody was told."""
    ANSWERED = "answered"
    """The sender has been told 200."""
    ASSIGNED = "assigned"
    """Noted in the inbox as travelling in a batch, of which Redis knows nothing yet."""
    QUEUED = "queued"
    """Its batch's job is on a queue."""
    TAKEN = "taken"
    """A worker has taken the job off its queue, and not begun with it."""
    LEASED = "held"
    """The job has begun: its lease beats."""
    STORING = "storing"
    """Inside the transaction that stores the batch and merges its records."""
    STORED = "stored"
    """That transaction is committed; the handlers have not run."""
    CONCLUDING = "concluding"
    """Inside the transaction that writes outcomes, effects and pushes."""
    CONCLUDED = "concluded"
    """That transaction is committed; the inbox does not know it."""
    ACKNOWLEDGED = "acknowledged"
    """The inbox has been told; nothing that follows has been done: no sender is woken, no run is on a queue."""
    SETTLED = "settled"
    """Its rows have gone from the inbox; Redis still says that they may."""
    RUN_ENQUEUED = "marked"
    """A run is noted as offered, in a job that is not written yet."""
    CLAIMED = "claimed"
    """A run is claimed by its job; its handler has not been called."""
    FINISHING = "finishing"
    """Inside the transaction that ends a run that had a job of its own."""
    FINISHED = "finished"
    """That transaction is committed; its job is still the worker's."""
    SENDING = "sending"
    """A push is claimed by a sender; its channel has not been called."""
    SENT = "sent"
    """The channel has taken a push; the ledger does not know it."""
    NOTED = "noted"
    """The ledger knows that a push was sent."""


def _pass(step: Failpoint) -> None:
    """Go on."""


def _kill_if_armed(step: Failpoint) -> None:
    """Kill this process if a file in the folder has the step's name; the file goes with the one that it has killed."""
    try:
        (FOLDER / step).unlink()
    except FileNotFoundError:
        return
    os.kill(os.getpid(), signal.SIGKILL)


FOLDER = Path(os.environ.get(VARIABLE, ""))
hit = _kill_if_armed if os.environ.get(VARIABLE) else _pass


def hit_inside(step: Failpoint, file: sqlite3.Connection) -> None:
    """Reach the step in the midst of whatever is done on this connection from now on."""
    if hit is not _pass:
        file.set_progress_handler(lambda: hit(step), INSTRUCTIONS)
