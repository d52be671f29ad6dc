"""Periodic tasks: one that fails or hangs harms only itself."""

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
class FakeTask:
    """A task that calls a function with the number of the run."""

    on_run: Callable[[int], None]
    name: str = "play"
    every: timedelta = timedelta(milliseconds=1)
    runs: int = 0
    started: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        self.runs += 1
        self.started.set()
        self.on_run(self.runs)


def test_a_task_runs_again_until_it_is_stopped(until: Callable[..., None]) -> None:
    task = FakeTask(lambda _run: None)
    runner = PeriodicRunner([task])
    runner.start()
    until(lambda: task.runs > 2)
    runner.check()
    runner.stop()
    before = task.runs
    with pytest.raises(RuntimeError, match="task-play"):
        runner.check()
    assert task.runs == before


def test_a_failure_is_logged_once_and_so_is_its_end() -> None:
    stop = threading.Event()
    failures = [QueueUnavailable("Redis is away"), QueueUnavailable("Redis is away"), KeyError("a secret"), None]

    def fail(number: int) -> None:
        failure = failures[number - 1]
        if failure is None:
            stop.set()
        else:
            raise failure

    with capture_logs() as lines:
        run_periodically(FakeTask(fail), stop)
    assert [(line["event"], line.get("reason", "").partition(" in ")[0]) for line in lines] == [
        ("task.failed", "Redis is away"),
        ("task.failed", "KeyError"),
        ("task.resumed", ""),
    ]
    assert "a secret" not in str(lines)


def test_a_task_that_hangs_delays_neither_the_others_nor_the_shutdown(until: Callable[..., None]) -> None:
    never = threading.Event()
    hangs, works = FakeTask(lambda _run: never.wait() and None), FakeTask(lambda _run: None, name="other")
    runner = PeriodicRunner([hangs, works])
    runner.start()
    until(lambda: works.runs > 2 and hangs.started.is_set())
    stopped_at = time.monotonic()
    runner.stop()
    assert time.monotonic() - stopped_at < SHUTDOWN_TIMEOUT.total_seconds() + 10
    never.set()


def test_the_pause_doubles_with_each_failure_and_is_never_shorter_than_the_interval() -> None:
    second, day = timedelta(seconds=1), timedelta(days=1)
    assert delay_after(second, 0) == second
    assert delay_after(second, 3) == 8 * second
    assert delay_after(second, 1000) == LONGEST_PAUSE
    assert delay_after(day, 5) == day
