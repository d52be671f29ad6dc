"""A shift of workers that are a few lines each."""

import errno
import os
import signal
import socket
import sys
import threading
import time

import pytest
from structlog.testing import capture_logs

from ingest.server import socket_activation, supervisor
from ingest.server.supervisor import run_supervisor

# Say where the sockets came, answer who comes, leave on SIGTERM.
GOOD = """
import os, signal, socket, sys
from ingest.server.socket_activation import inherited_sockets, sd_notify
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
(listening,) = inherited_sockets()
listening.setblocking(True)
sd_notify("READY=1", f"MAINPID={os.getpid()}")
while True:
    guest, _ = listening.accept()
    guest.sendall(str(os.getpid()).encode())
    guest.close()
"""
BAD_SETTINGS = "raise SystemExit(2)"
STUMBLING = "raise SystemExit(3)"
SILENT = "import time; time.sleep(60)"
STUBBORN = GOOD.replace("lambda *_: os._exit(0)", "signal.SIG_IGN")


@pytest.fixture
def listening():
    with socket.create_server(("127.0.0.1", 0)) as opened:
        yield opened


def who_answers(listening):
    with socket.create_connection(listening.getsockname(), timeout=10) as asking:
        return int(asking.recv(20) or 0)


def run(program, listening, *, count=1, then=lambda: None):
    """Keep a shift of that program in this, the main thread; a story in another ends it."""
    with capture_logs() as lines:
        code = keep(program, listening, count, then)
    return code, lines


def keep(program, listening, count, then):
    ended = threading.Event()

    def story():
        try:
            then()
        finally:
            if not ended.is_set():  # else it would end the tests
                os.kill(os.getpid(), signal.SIGTERM)

    telling = threading.Thread(target=story)
    telling.start()
    code = run_supervisor([sys.executable, "-c", program], [listening], count)
    ended.set()
    telling.join()
    return code


def test_workers_answer_on_the_socket_that_they_are_given_and_leave_at_the_end(listening, eventually):
    seen = set()
    code, lines = run(
        GOOD,
        listening,
        count=2,
        then=lambda: eventually(lambda: seen.add(who_answers(listening)) or len(seen) == 2, seconds=30),
    )
    assert code == 0
    assert seen == {line["pid"] for line in lines if line["event"] == "worker.started"}
    with pytest.raises(ProcessLookupError):
        os.kill(seen.pop(), 0)


def test_on_sighup_there_are_others_soon(listening, eventually):
    seen = []

    def story():
        seen.append(who_answers(listening))
        os.kill(os.getpid(), signal.SIGHUP)
        eventually(lambda: who_answers(listening) != seen[0], seconds=30)

    code, lines = run(GOOD, listening, then=story)
    assert code == 0
    assert [line["event"] for line in lines] == [
        "worker.started",
        "door.reload_begun",
        "worker.started",
        "door.reloaded",
    ]


def test_a_second_sighup_before_the_new_one_is_ready_costs_nobody_the_door(listening, eventually, tmp_path):
    programs = tmp_path / "program"
    programs.write_text(GOOD)
    answered = []

    def events():
        return [line["event"] for line in lines]

    def story():
        answered.append(who_answers(listening))
        programs.write_text(SILENT)
        os.kill(os.getpid(), signal.SIGHUP)
        eventually(lambda: events().count("worker.started") == 2, seconds=30)
        programs.write_text(BAD_SETTINGS)
        os.kill(os.getpid(), signal.SIGHUP)
        eventually(lambda: "door.reload_failed" in events(), seconds=30)
        answered.append(who_answers(listening))

    with capture_logs() as lines:
        keep(f"exec(open({str(programs)!r}).read())", listening, 1, story)
    assert len(answered) == 2
    assert answered[0] == answered[1]


def test_a_sighup_before_anyone_is_ready_is_obeyed_too(listening, eventually, tmp_path, monkeypatch):
    programs = tmp_path / "program"
    programs.write_text(SILENT)
    told = []
    monkeypatch.setattr(supervisor, "sd_notify", lambda *facts: told.append(facts[0]))

    def story():
        eventually(lambda: any(line["event"] == "worker.started" for line in lines), seconds=30)
        programs.write_text(GOOD)
        os.kill(os.getpid(), signal.SIGHUP)
        eventually(lambda: "door.reloaded" in [line["event"] for line in lines], seconds=30)
        who_answers(listening)

    with capture_logs() as lines:
        assert keep(f"exec(open({str(programs)!r}).read())", listening, 1, story) == 0
    assert told[0] == "RELOADING=1"
    assert "READY=1" in told[1:]


@pytest.fixture
def refused(monkeypatch):
    """Have the machine refuse so many processes from now on."""
    real, left = socket_activation.os.fork, []

    def fork():
        if left:
            left.pop()
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
        return real()

    monkeypatch.setattr(socket_activation.os, "fork", fork)
    return left


def test_who_serves_goes_on_while_the_machine_has_no_room_for_another(listening, eventually, refused, monkeypatch):
    monkeypatch.setattr(supervisor, "FIRST_PAUSE", 0.01)
    answered = []

    def started():
        return [line["pid"] for line in lines if line["event"] == "worker.started"]

    def story():
        who_answers(listening)
        first, second = started()
        refused.extend("xx")
        os.kill(first, signal.SIGKILL)
        eventually(lambda: len(started()) == 3, seconds=30)
        answered.extend(who_answers(listening) for _ in range(20))
        os.kill(second, 0)

    with capture_logs() as lines:
        assert keep(GOOD, listening, 2, story) == 0
    assert [line["error"] for line in lines if line["event"] == "worker.not_started"] == [
        "Resource temporarily unavailable"
    ] * 2
    assert set(answered) <= set(started()[1:])


def test_a_reload_for_which_there_is_no_room_leaves_the_old_ones_serving(listening, eventually, refused):
    answered = []

    def story():
        answered.append(who_answers(listening))
        refused.append("x")
        os.kill(os.getpid(), signal.SIGHUP)
        eventually(lambda: "door.reload_failed" in [line["event"] for line in lines], seconds=30)
        answered.append(who_answers(listening))

    with capture_logs() as lines:
        assert keep(GOOD, listening, 1, story) == 0
    assert answered[0] == answered[1]


def test_settings_that_no_start_mends_end_it_with_the_workers_exit_code(listening):
    assert run_supervisor([sys.executable, "-c", BAD_SETTINGS], [listening], 2) == 2


def test_what_never_starts_is_tried_a_few_times(listening, monkeypatch):
    monkeypatch.setattr(supervisor, "FIRST_PAUSE", 0.01)
    with capture_logs() as lines:
        assert run_supervisor([sys.executable, "-c", STUMBLING], [listening], 1) == 3
    assert len([line for line in lines if line["event"] == "worker.died"]) == supervisor.FAILED_STARTS


def test_what_cannot_even_be_run_ends_it(listening, monkeypatch):
    monkeypatch.setattr(supervisor, "FIRST_PAUSE", 0.01)
    assert run_supervisor(["no-such-program"], [listening], 1) == 1


def test_who_never_gets_ready_is_killed(listening, monkeypatch):
    monkeypatch.setattr(supervisor, "STARTUP_TIMEOUT", 0.1)
    monkeypatch.setattr(supervisor, "FIRST_PAUSE", 0.01)
    assert run_supervisor([sys.executable, "-c", SILENT], [listening], 1) == 1


def test_who_does_not_leave_is_killed(listening, monkeypatch):
    monkeypatch.setattr(supervisor, "DRAIN_TIMEOUT", 0.3)
    begun = time.monotonic()
    code, lines = run(STUBBORN, listening, then=lambda: who_answers(listening))
    assert code == 0
    assert time.monotonic() - begun < 30
    assert lines[-1]["event"] == "worker.did_not_leave"


def test_a_second_signal_kills_who_is_left(listening):
    def story():
        who_answers(listening)
        os.kill(os.getpid(), signal.SIGINT)

    code, _ = run(STUBBORN, listening, then=story)
    assert code == 0
