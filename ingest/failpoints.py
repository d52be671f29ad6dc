"""Failpoints: steps of the path at which tests kill the process, to prove that nothing is lost or done twice.

They do nothing unless WEBHOOKS_CRASHES names a folder when the process starts; `hit` then costs one call.
"""

import os
import signal
import sqlite3
from enum import StrEnum
from pathlib import Path

VARIABLE = "WEBHOOKS_CRASHES"
# Instructions of SQLite's virtual machine between two checks: few enough to interrupt any statement that writes a row.
INSTRUCTIONS = 40


class Failpoint(StrEnum):
    """A step of a delivery, a run or a push."""

    RECEIVED = "received"
    """Its body is read and not yet verified."""
    VERIFIED = "verified"
    """Its signature is valid; it is not written yet."""
    KEEPING = "keeping"
    """Inside the statement, or the transaction, that writes it to the inbox."""
    KEPT = "kept"
    """Committed, and on disk; the response is not sent."""
    ANSWERED = "answered"
    """The response 200 is sent."""
    ASSIGNED = "assigned"
    """Recorded in the inbox as part of a batch that is not in Redis yet."""
    QUEUED = "queued"
    """Its batch's job is on a queue."""
    TAKEN = "taken"
    """A worker has dequeued the job and not started it."""
    LEASED = "leased"
    """The job has started and holds its lease."""
    STORING = "storing"
    """Inside the transaction that stores the batch and merges its records."""
    STORED = "stored"
    """That transaction is committed; the handlers have not run."""
    CONCLUDING = "concluding"
    """Inside the transaction that writes outcomes, effects and pushes."""
    CONCLUDED = "concluded"
    """That transaction is committed; the batch is not acknowledged."""
    ACKNOWLEDGED = "acknowledged"
    """The batch is acknowledged; neither is the push sender notified nor a run enqueued."""
    SETTLED = "settled"
    """Its rows are deleted from the inbox; the acknowledgement is still in Redis."""
    RUN_ENQUEUED = "run_enqueued"
    """A run is recorded as enqueued, in a job that is not written yet."""
    CLAIMED = "claimed"
    """A run is claimed by its job; its handler has not been called."""
    FINISHING = "finishing"
    """Inside the transaction that ends a run that had a job of its own."""
    FINISHED = "finished"
    """That transaction is committed; the worker has not ended the job."""
    HEALING = "healing"
    """Inside the transaction that merges what was read at the Drive API, and inserts events that did not come."""
    HEALED = "healed"
    """That transaction is committed; the runs of these events are not enqueued."""
    SENDING = "sending"
    """A push is claimed by a sender; its channel has not been called."""
    SENT = "sent"
    """The channel has accepted a push; the ledger does not record it yet."""
    RECORDED = "recorded"
    """The ledger records that a push was sent."""


def _pass(step: Failpoint) -> None:
    """Do nothing."""


def _kill_if_armed(step: Failpoint) -> None:
    """Kill this process if the folder has a file of the step's name, and delete the file first: it kills once."""
    try:
        (FOLDER / step).unlink()
    except FileNotFoundError:
        return
    os.kill(os.getpid(), signal.SIGKILL)


FOLDER = Path(os.environ.get(VARIABLE, ""))
hit = _kill_if_armed if os.environ.get(VARIABLE) else _pass


def hit_inside(step: Failpoint, file: sqlite3.Connection) -> None:
    """Hit the step inside every statement of this connection from now on."""
    if hit is not _pass:
        file.set_progress_handler(lambda: hit(step), INSTRUCTIONS)
