"""A work horse: a real child process that does what the request says."""

import contextlib
import errno
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator

import pytest
import structlog

from workers.execution import work_horse
from workers.execution.work_horse import WorkHorse, serve_requests
from workers.resilience.guarded_call import HandlerDeadline

PATIENCE = 30.0


def leave_a_child_and_die() -> None:
    if os.fork() == 0:
        time.sleep(60)
    os.kill(os.getpid(), signal.SIGKILL)


def overrun() -> None:
    HandlerDeadline.overruns += 1


def grow() -> None:
    bytearray(os.urandom(1)) * (work_horse.MAX_GROWTH + (16 << 20))


def leak_files() -> None:
    for _ in range(work_horse.MAX_LEAKED):
        os.dup(0)


def leak_threads() -> None:
    for _ in range(work_horse.MAX_LEAKED):
        threading.Thread(target=time.sleep, args=(PATIENCE,), daemon=True).start()


def bind_to_the_log() -> None:
    if structlog.contextvars.get_contextvars():
        os._exit(1)
    structlog.contextvars.bind_contextvars(driver="user-1")


MISBEHAVIOURS: dict[str, Callable[[], object]] = {
    "die": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "exit": lambda: os._exit(0),
    "leave a child and die": leave_a_child_and_die,
    "fork": os.fork,
    "block a signal": lambda: signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM]),
    "ignore a signal": lambda: signal.signal(signal.SIGTERM, signal.SIG_IGN),
    "change the environment": lambda: os.environ.__setitem__("LEFT_BY_A_HANDLER", "1"),
    "change the folder": lambda: os.chdir("/"),
    "overrun": overrun,
    "grow": grow,
    "end at a closed pipe": lambda: signal.signal(signal.SIGPIPE, signal.SIG_DFL),
    "leak files": leak_files,
    "leak threads": leak_threads,
    "bind to the log": bind_to_the_log,
}


def perform(request: bytes) -> bool:
    """Misbehave as asked; return False if the job failed."""
    what = request.strip().decode()
    MISBEHAVIOURS.get(what, lambda: None)()
    return what != "fail"


@pytest.fixture
def horse() -> Iterator[WorkHorse]:
    running = WorkHorse(lambda channel: serve_requests(channel, perform))
    yield running
    group = running.pid
    running.close()
    with contextlib.suppress(ProcessLookupError):  # what it has forked
        os.killpg(group, signal.SIGKILL)


def ask(horse: WorkHorse, request: bytes) -> bool:
    """Send a request and wait; return whether there was a reply."""
    horse.send(request)
    assert horse.wait(PATIENCE)
    return horse.has_replied()


def test_one_process_does_many_jobs(horse: WorkHorse) -> None:
    for _ in range(5):
        assert horse.is_ready()
        assert ask(horse, b"work")
    assert horse.is_ready()
    assert not horse.has_ended()


def test_a_reply_stays_until_it_is_taken(horse: WorkHorse) -> None:
    assert ask(horse, b"work")
    assert horse.wait(0)
    assert horse.has_replied()
    assert horse.is_ready()
    assert not horse.has_replied()


@pytest.mark.parametrize(
    "request_",
    [
        b"fail",
        b"block a signal",
        b"ignore a signal",
        b"change the environment",
        b"change the folder",
        b"overrun",
        b"grow",
        b"end at a closed pipe",
        b"leak files",
        b"leak threads",
    ],
)
def test_a_process_that_is_not_as_it_was_replies_and_ends(horse: WorkHorse, request_: bytes) -> None:
    assert ask(horse, b"work")
    assert horse.is_ready()
    assert ask(horse, request_)
    assert not horse.is_ready()


def test_a_process_ends_after_so_many_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work_horse, "MAX_JOBS", 2)
    horse = WorkHorse(lambda channel: serve_requests(channel, perform))
    assert ask(horse, b"work")
    assert horse.is_ready()
    assert ask(horse, b"work")
    assert not horse.is_ready()
    horse.close()


@pytest.mark.parametrize("request_", [b"die", b"exit", b"leave a child and die"])
def test_a_death_is_noticed_at_once_whoever_holds_the_channel(horse: WorkHorse, request_: bytes) -> None:
    began_at = time.monotonic()
    assert not ask(horse, request_)
    assert time.monotonic() < began_at + PATIENCE
    assert horse.has_ended()
    assert not horse.is_ready()


def test_a_copy_that_a_handler_forks_neither_replies_nor_does_the_next_job(
    horse: WorkHorse,
) -> None:
    assert ask(horse, b"fork")
    assert horse.is_ready()
    assert ask(horse, b"work")
    assert horse.is_ready()
    assert not horse.has_replied()


def test_an_idle_process_ends_when_its_worker_is_gone(until: Callable[..., None]) -> None:
    horse = WorkHorse(lambda channel: serve_requests(channel, perform))
    assert ask(horse, b"work")
    horse._channel.close()  # noqa: SLF001 - as the kernel does when a worker is killed
    until(horse.has_ended)
    assert horse.status == 0


def test_a_handler_finds_nothing_that_another_bound_to_its_log_lines(horse: WorkHorse) -> None:
    assert ask(horse, b"bind to the log")
    assert horse.is_ready()
    assert ask(horse, b"bind to the log")


@pytest.mark.parametrize("request_", [b"die", b"leave a child and die"])
def test_a_death_is_noticed_where_the_system_has_no_files_for_processes(
    monkeypatch: pytest.MonkeyPatch, request_: bytes, until: Callable[..., None]
) -> None:
    def refuse(_pid: int) -> int:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(os, "pidfd_open", refuse, raising=False)
    horse = WorkHorse(lambda channel: serve_requests(channel, perform))
    horse.send(request_)
    until(lambda: horse.wait(0.1))
    assert horse.has_ended()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(horse.pid, signal.SIGKILL)
    horse.close()
