"""Handlers whose effects can be counted: one row an event and handler in a table that would take a second one, too."""

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

#: Where the channel writes down what it is given, a line each.
PUSHED = "PUSHED_TO"


def record_effect(ctx: Context, handler: str) -> None:
    ctx.write(insert(effects).values(delivery_id=ctx.delivery.id, handler=handler))


@on(SessionEvent)
def note_here(event: SessionEvent, ctx: Context) -> None:
    """Write a row from the batch's own job."""
    record_effect(ctx, "note_here")


@on(ChargingRecord)
def note_record(event: ChargingRecord, ctx: Context) -> None:
    """Write a row for a CDR."""
    record_effect(ctx, "note_record")


@on(SessionComplete, queue="other")
def note_apart(event: SessionComplete, ctx: Context) -> None:
    """Write a row from a job of its own."""
    record_effect(ctx, "note_apart")


@on(SessionStopped)
def note_at_second_try(event: SessionStopped, ctx: Context) -> None:
    """Write a row when it is called again."""
    if ctx.attempt == 1:
        raise RetryLater("it is the first time", after=timedelta(milliseconds=200))
    record_effect(ctx, "note_at_second_try")


@on(SessionStarted)
def greet(event: SessionStarted, ctx: Context) -> None:
    """Push once a session."""
    ctx.push(
        event.user_id or "nobody",
        title="Hello",
        body="It has begun.",
        session_id=None,  # it goes out although the session may be over
        collapse_key=f"hello:{ctx.delivery.id}",
    )


@channel("file")
def append_line(push: OutgoingPush) -> None:
    """Append one line, as a provider would."""
    with Path(os.environ[PUSHED]).open("a") as file:
        file.write(f"{push.id}\n")


@on(SessionStopFailed)
def misbehave(event: Event, ctx: Context) -> None:
    """Do what the session's id asks for."""
    deed = MISBEHAVIOURS.get((event.session_id or "").partition("-")[0])
    if deed is not None:
        deed()


def break_memory() -> None:
    ctypes.string_at(0)


def leak() -> None:
    KEPT.append([bytearray(os.urandom(1)) * (4 << 20) for _ in range(64)])


def fork() -> None:
    """Leave a process behind that lives on, and a copy of this one that returns as if it were the handler."""
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
    """Keep every other thread of this process from running: sleep in C, without letting the interpreter go."""
    ctypes.PyDLL(None).sleep(600)


def leave() -> None:
    os._exit(0)


KEPT: list[object] = []
MISBEHAVIOURS = {
    "segfault": break_memory,
    "leak": leak,
    "fork": fork,
    "hang": hang,
    "signals": block_signals,
    "interpreter": hold_interpreter,
    "leave": leave,
}
