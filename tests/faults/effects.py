"""Handlers whose effects can be counted: a row for each event and handler, in a table that would take duplicates."""

import ctypes
import os
import signal
import time
from datetime import timedelta
from pathlib import Path

from sqlalchemy import Column, MetaData, String, Table, insert

from handlers import Context, OutgoingPush, RetryLater, channel, on
from ingest.events import (
    ChargingRecord,
    Event,
    SessionComplete,
    SessionEvent,
    SessionStarted,
    SessionStopFailed,
    SessionStopped,
)

metadata = MetaData()
effects = Table("effects", metadata, Column("delivery_id", String), Column("handler", String))

#: Names the file to which the channel appends the id of each push.
PUSHED = "PUSHED_TO"


def record_effect(ctx: Context, handler: str) -> None:
    ctx.write(insert(effects).values(delivery_id=ctx.delivery.id, handler=handler))


@on(SessionEvent)
def record_in_batch(event: SessionEvent, ctx: Context) -> None:
    """Insert a row in the job of the batch."""
    record_effect(ctx, "record_in_batch")


@on(ChargingRecord)
def record_cdr(event: ChargingRecord, ctx: Context) -> None:
    """Insert a row for a CDR."""
    record_effect(ctx, "record_cdr")


@on(SessionComplete, queue="other")
def record_in_own_job(event: SessionComplete, ctx: Context) -> None:
    """Insert a row in a job of its own."""
    record_effect(ctx, "record_in_own_job")


@on(SessionStopped)
def record_on_retry(event: SessionStopped, ctx: Context) -> None:
    """Insert a row in the second attempt."""
    if ctx.attempt == 1:
        raise RetryLater("the first attempt", after=timedelta(milliseconds=200))
    record_effect(ctx, "record_on_retry")


@on(SessionStarted)
def push_hello(event: SessionStarted, ctx: Context) -> None:
    """Push once for each session."""
    ctx.push(
        event.user_id or "nobody",
        title="Hello",
        body="It has begun.",
        session_id=None,  # so that it is sent even if the session is over
        collapse_key=f"hello:{ctx.delivery.id}",
    )


@channel("file")
def append_line(push: OutgoingPush) -> None:
    """Append the id of the push, as a provider receives it."""
    with Path(os.environ[PUSHED]).open("a") as file:
        file.write(f"{push.id}\n")


@on(SessionStopFailed)
def misbehave(event: Event, ctx: Context) -> None:
    """Misbehave in the way that the session's id names."""
    misbehaviour = MISBEHAVIOURS.get((event.session_id or "").partition("-")[0])
    if misbehaviour is not None:
        misbehaviour()


def segfault() -> None:
    ctypes.string_at(0)


def leak() -> None:
    LEAKED.append([bytearray(os.urandom(1)) * (4 << 20) for _ in range(64)])


def fork() -> None:
    """Fork a process that lives on, and a copy of this one that returns from the handler, too."""
    if os.fork() == 0:
        time.sleep(600)
        os._exit(0)
    os.fork()


def hang() -> None:
    while True:
        time.sleep(1)


def block_signals() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    hang()


def hold_interpreter() -> None:
    """Block every other thread of this process: sleep in C without releasing the interpreter lock."""
    ctypes.PyDLL(None).sleep(600)


def exit_at_once() -> None:
    os._exit(0)


def fail() -> None:
    raise RuntimeError("it always fails")


LEAKED: list[object] = []
MISBEHAVIOURS = {
    "segfault": segfault,
    "leak": leak,
    "fork": fork,
    "hang": hang,
    "signals": block_signals,
    "interpreter": hold_interpreter,
    "exit": exit_at_once,
    "raise": fail,
}
