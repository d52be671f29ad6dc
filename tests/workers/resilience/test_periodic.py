"""Duties of the clock: one that fails or hangs harms nothing but itself."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta

import pytest
from structlog.testing import capture_logs

from ingest.errors import QueueUnavailable
from workers.resilience.periodic import LONGEST_PAUSE, SHUTDOWN_TIMEOUT, PeriodicRunner, delay_after, run_periodically


@dataclass
class Playing:
    """A duty that does what it is told, once for each turn."""

    turn: Callable[[int], None]
    name: str = "play"
    every: timedelta = timedelta(milliseconds=1)
    turns: int = 0
    begun: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        self.turns += 1
        self.begun.set()
        self.turn(self.turns)


def test_a_duty_takes_turns_until_it_is_told_to_stop(until: Callable[..., None]) -> None:
    duty = Playing(lambda _turn: None)
    duties = PeriodicRunner([duty])
    duties.start()
    until(lambda: duty.turns > 2)
    duties.check()
    duties.stop()
    taken = duty.turns
    with pytest.raises(RuntimeError, match="duty-play"):
        duties.check()
    assert duty.turns == taken


def test_a_failure_is_told_once_and_its_end_too() -> None:
    stop = threading.Event()
    failures = [QueueUnavailable("Redis is away"), QueueUnavailable("Redis is away"), KeyError("a secret"), None]

    def turn(number: int) -> None:
        failure = failures[number - 1]
        if failure is None:
            stop.set()
        else:
            raise failure

    with capture_logs() as lines:
        run_periodically(Playing(turn), stop)
    assert [(line["event"], line.get("reason", "").partition(" in ")[0]) for line in lines] == [
        ("duty.failed", "Redis is away"),
        ("duty.failed", "KeyError"),
        ("duty.resumed", ""),
    ]
    assert "a secret" not in str(lines)


def test_a_duty_that_hangs_delays_neither_the_others_nor_the_end(until: Callable[..., None]) -> None:
    never = threading.Event()
    hangs, works = Playing(lambda _turn: never.wait() and None), Playing(lambda _turn: None, name="other")
    duties = PeriodicRunner([hangs, works])
    duties.start()
    until(lambda: works.turns > 2 and hangs.begun.is_set())
    began = time.monotonic()
    duties.stop()
    assert time.monotonic() - began < SHUTDOWN_TIMEOUT.total_seconds() + 10
    never.set()


def test_pauses_grow_with_failures_and_are_never_shorter_than_a_turn_of_its_own() -> None:
    second, day = timedelta(seconds=1), timedelta(days=1)
    assert delay_after(second, 0) == second
    assert delay_after(second, 3) == 8 * second
    assert delay_after(second, 1000) == LONGEST_PAUSE
    assert delay_after(day, 5) == day
