"""A child whose handler stays beyond its time is killed from outside."""

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
    monkeypatch.setattr(hard_timeout, "LOOK_EVERY", 0.02)


def test_a_child_that_listens_to_nothing_is_killed_when_its_time_is_up() -> None:
    child = os.fork()
    if child == 0:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        with kill_after(timedelta(milliseconds=100)):
            time.sleep(60)
        os._exit(0)
    with kill_on_timeout(lambda: os.kill(child, signal.SIGKILL)):
        _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL


def test_what_ends_in_time_is_left_alone() -> None:
    killed = threading.Event()
    with kill_on_timeout(killed.set):
        with kill_after(timedelta(seconds=60)):
            pass
        assert not killed.wait(0.5)


def test_a_child_that_died_in_the_midst_leaves_nothing_for_the_next_one() -> None:
    killed = threading.Event()
    with kill_on_timeout(killed.set):
        hard_timeout._write(time.monotonic() + 60)  # noqa: SLF001 - as a child that is killed in the midst
    assert hard_timeout.MOMENT.unpack(hard_timeout.SHARED_DEADLINE[:]) == (hard_timeout.NO_DEADLINE,)
    assert not killed.is_set()
