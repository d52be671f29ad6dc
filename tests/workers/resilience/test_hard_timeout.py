"""A child whose handler overruns its hard timeout is killed from outside."""

import os
import signal
import threading
import time
from datetime import timedelta

import pytest

from workers.resilience import hard_timeout
from workers.resilience.hard_timeout import kill_after, kill_on_timeout


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hard_timeout, "CLEANUP_GRACE", timedelta(milliseconds=100))
    monkeypatch.setattr(hard_timeout, "POLL_SECONDS", 0.02)


def test_a_child_that_blocks_signals_is_killed_after_its_deadline() -> None:
    child = os.fork()
    if child == 0:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        with kill_after(timedelta(milliseconds=100)):
            time.sleep(60)
        os._exit(0)
    with kill_on_timeout(lambda: os.kill(child, signal.SIGKILL)):
        _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL


def test_a_call_that_ends_in_time_is_not_killed() -> None:
    killed = threading.Event()
    with kill_on_timeout(killed.set):
        with kill_after(timedelta(seconds=60)):
            pass
        assert not killed.wait(0.5)


def test_a_child_that_died_leaves_no_deadline_for_the_next_one() -> None:
    killed = threading.Event()
    with kill_on_timeout(killed.set):
        hard_timeout._write(time.monotonic() + 60)  # noqa: SLF001 - as a child does that is killed before the block ends
    (deadline,) = hard_timeout.DEADLINE_FORMAT.unpack(hard_timeout._memory[0][:])  # noqa: SLF001 - as above
    assert deadline == hard_timeout.NO_DEADLINE
    assert not killed.is_set()
