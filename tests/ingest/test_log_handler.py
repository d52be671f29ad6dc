import json
import logging
import os
import socket
import subprocess
import sys
import threading

import pytest
import structlog

from ingest import log_handler
from ingest.config.settings import load_settings
from ingest.log import configure_logging
from ingest.log_handler import MAX_LINES, SPAN, DropReason, NonBlockingHandler, RequestLineLimit


@pytest.fixture
def lost(monkeypatch):
    """Return what the metrics hear of dropped lines."""
    heard = []
    monkeypatch.setattr(log_handler, "drop_listeners", [lambda *dropped: heard.append(dropped)])
    return heard


@pytest.fixture
def pipe():
    """Open a pipe: the end to read and the end to write, which the test may close itself."""
    ends = os.pipe()
    os.set_blocking(ends[0], False)
    yield ends
    for end in ends:
        os.close(end)


@pytest.fixture
def logger():
    """Return a function that makes a logger that writes to a handler."""
    made = []

    def make(handler, name="here"):
        logger = logging.getLogger(name)
        logger.addHandler(handler)
        made.append((logger, handler))
        return logger

    yield make
    for each, handler in made:
        each.removeHandler(handler)


def read(end):
    received = b""
    try:
        while piece := os.read(end, 65536):
            received += piece
    except BlockingIOError:
        pass
    return received.decode().splitlines(keepends=True)


def not_reopened(*_):
    raise PermissionError


@pytest.mark.parametrize("may_reopen", [True, False])
def test_lines_wait_for_a_reader_that_stalls_and_those_beyond_the_limit_are_counted(
    pipe, monkeypatch, eventually, may_reopen, lost
):
    monkeypatch.setattr(log_handler, "MAX_WAITING", 10_000)
    monkeypatch.setattr(log_handler, "POLL_INTERVAL", 0.01)
    if not may_reopen:
        monkeypatch.setattr(os, "open", not_reopened)
    received = []
    with os.fdopen(os.dup(pipe[1]), "w") as stream:
        configure_logging(load_settings(log_format="json"), "serve", stream=stream)
        for number in range(400):
            logging.getLogger("here").warning("%d %s", number, "x" * 1000)  # it returns: a pipe holds 64 KiB
        eventually(lambda: received.extend(read(pipe[0])) or "log.dropped" in "".join(received))
    *lines, dropped = [json.loads(line) for line in "".join(received).splitlines()]
    assert [line["event"] for line in lines] == [f"{number} {'x' * 1000}" for number in range(len(lines))]
    assert (dropped["event"], dropped["count"]) == ("log.dropped", 400 - len(lines))
    eventually(lambda: lost)
    assert lost == [(DropReason.READER, 400 - len(lines))]
    assert os.get_blocking(pipe[1])  # other processes share it


def test_a_line_is_written_when_the_call_returns_so_that_no_crash_loses_it(pipe, logger):
    logger(NonBlockingHandler(pipe[1])).warning("last words")
    assert read(pipe[0]) == ["last words\n"]


def test_a_reader_that_is_gone_stops_nothing(pipe, logger):
    reading, writing = os.pipe()
    own = logger(NonBlockingHandler(writing))
    os.close(reading)
    for _ in range(200):
        own.warning("%s", "x" * 1000)
    os.close(writing)


def test_a_socket_is_not_waited_for_either(logger):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        handler = NonBlockingHandler(ours.fileno())
        own = logger(handler)
        for number in range(2000):
            own.warning("%d %s", number, "x" * 1000)
        assert theirs.recv(100).startswith(b"0 xxx")
        handler.forget()


def test_the_end_of_a_process_waits_for_its_reader_but_not_for_ever():
    code = """
import logging, sys
from ingest.config.settings import load_settings
from ingest.log import configure_logging
configure_logging(load_settings(log_format="json"), "serve")
for number in range(200):
    logging.getLogger("here").warning("%d %s", number, "x" * 1000)
"""
    with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, env=os.environ) as process:
        lines = process.stderr.read().splitlines()
    assert [json.loads(line)["event"].split()[0] for line in lines] == [str(number) for number in range(200)]
    with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, env=os.environ) as process:
        assert process.wait(20) == 0


def test_a_forked_process_does_not_write_the_lines_of_its_parent(pipe, logger, monkeypatch):
    monkeypatch.setattr(log_handler, "POLL_INTERVAL", 60.0)
    handler = NonBlockingHandler(pipe[1])
    own = logger(handler)
    for _ in range(100):
        own.warning("%s", "x" * 1000)
    child = os.fork()
    if child == 0:
        own.warning("mine")
        os._exit(len(handler._waiting))  # noqa: SLF001 - the pipe is full
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) <= 1
    handler.forget()


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def test_warnings_that_requests_cause_are_limited_and_counted():
    clock, written = Clock(), []
    handler = logging.Handler()
    handler.emit = written.append
    handler.addFilter(limit := RequestLineLimit(monotonic=clock))
    loggers = {name: logging.getLogger(name) for name in ("uvicorn.error", "workers.execution", "ingest.log_handler")}
    for each in loggers.values():
        each.handlers, each.propagate = [handler], False
    structlog.configure(
        processors=[structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
    )
    try:
        for _ in range(MAX_LINES + 5):
            loggers["uvicorn.error"].warning("Invalid HTTP request received.")
            loggers["uvicorn.error"].info("started")
            loggers["workers.execution"].warning("run.failed")
        names = [record.name for record in written]
        assert names.count("workers.execution") == MAX_LINES + 5
        assert sum(record.levelno == logging.WARNING for record in written) == 2 * MAX_LINES + 5
        clock.now = SPAN + 1
        loggers["uvicorn.error"].warning("Invalid HTTP request received.")
        assert written[-1].msg == "Invalid HTTP request received."
        assert (written[-2].msg["event"], written[-2].msg["count"]) == ("log.suppressed", 5)
        limit.report()
        assert written[-1].msg == "Invalid HTTP request received."  # nothing more was suppressed
    finally:
        structlog.reset_defaults()
        for each in loggers.values():
            each.handlers, each.propagate = [], True


def test_what_was_suppressed_is_logged_though_no_further_line_comes(pipe, monkeypatch, eventually, lost):
    monkeypatch.setattr(log_handler, "SPAN", 0.2)
    with os.fdopen(os.dup(pipe[1]), "w") as stream:
        configure_logging(load_settings(log_format="json"), "serve", stream=stream)
        for _ in range(MAX_LINES + 7):
            logging.getLogger("uvicorn.error").warning("Invalid HTTP request received.")
        lines = []
        eventually(lambda: lines.extend(read(pipe[0])) or len(lines) > MAX_LINES)
    last = json.loads(lines[-1])
    assert (last["event"], last["suppressed"], last["count"]) == ("log.suppressed", "Invalid HTTP request received.", 7)
    eventually(lambda: lost == [(DropReason.LIMIT, 7)])


def test_the_end_of_a_process_waits_beside_the_thread_that_writes(pipe, logger, monkeypatch):
    both_wait, one_waits_again = threading.Barrier(2), threading.Event()
    real, waited, errors = NonBlockingHandler._wait_for_reader, set(), []  # noqa: SLF001

    def wait(self):
        if threading.get_ident() in waited:
            one_waits_again.set()
        else:
            waited.add(threading.get_ident())
            both_wait.wait(20)
        try:
            real(self)
        except RuntimeError as error:
            errors.append(error)

    monkeypatch.setattr(NonBlockingHandler, "_wait_for_reader", wait)
    handler = NonBlockingHandler(pipe[1])
    own = logger(handler)
    for _ in range(200):
        own.warning("%s", "x" * 1000)
    flushing = threading.Thread(target=handler.flush)
    flushing.start()
    assert one_waits_again.wait(20)
    os.set_blocking(pipe[0], True)
    received = 0
    while received < 200 * 1001:
        received += len(os.read(pipe[0], 65536))
    flushing.join(20)
    assert not flushing.is_alive()
    assert not errors
