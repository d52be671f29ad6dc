"""A child whose handler overruns its hard timeout is killed from outside."""

import os
import signal
import time
from collections.abc import Callable
from datetime import timedelta

import pytest

from workers.resilience import hard_timeout
from workers.resilience.hard_timeout import clear_deadline, is_overdue, kill_after


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hard_timeout, "CLEANUP_GRACE", timedelta(milliseconds=100))


def test_a_child_that_blocks_signals_is_overdue_after_its_deadline_and_once(until: Callable[..., None]) -> None:
    child = os.fork()
    if child == 0:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        with kill_after(timedelta(milliseconds=100)):
            time.sleep(60)
        os._exit(0)
    until(is_overdue)
    assert not is_overdue()
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL


def test_a_call_that_ends_in_time_is_not_overdue() -> None:
    with kill_after(timedelta(seconds=-1)):
        pass
    assert not is_overdue()


def test_a_child_that_died_leaves_no_deadline_for_the_next_one() -> None:
    hard_timeout._write(time.monotonic() - 1)  # noqa: SLF001 - as a child does that is killed in a call
    clear_deadline()
    assert not is_overdue()
