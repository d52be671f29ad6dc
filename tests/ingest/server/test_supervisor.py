import errno
import importlib
import os
import signal
import socket
import threading
from datetime import timedelta
from multiprocessing.popen_spawn_posix import Popen
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from structlog.testing import capture_logs
from uvicorn.supervisors.multiprocess import SIGNALS

from ingest import worker_metrics
from ingest.backoff import Backoff
from ingest.server import supervisor
from ingest.server.supervisor import run_supervisor

# A module that workers import: what they do is read from a file when they start.
MODULE = """
import os, pathlib, signal, sys, time


class Server:
    def __init__(self, on_started):
        self.on_started = on_started

    def run(self, sockets):
        does = pathlib.Path(__file__).with_suffix(".txt").read_text()
        if does.isdecimal():
            sys.exit(int(does))
        if does == "silent":
            time.sleep(60)
        signal.signal(signal.SIGTERM, signal.SIG_IGN if does == "stubborn" else lambda *_: os._exit(0))
        (listening,) = sockets
        listening.setblocking(True)
        self.on_started()
        while True:
            guest, _ = listening.accept()
            guest.sendall(f"{os.getpid()} {os.environ.get('NOTIFY_SOCKET')}".encode())
            guest.close()


class Counting:
    # Counts who calls, and answers with all metrics.
    def __init__(self, on_started):
        self.on_started = on_started

    def run(self, sockets):
        from ingest.metrics import Metrics

        metrics = Metrics()
        metrics.relay(redis_ok=True, leader=True, backlog=7, last_published=1)
        signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
        (listening,) = sockets
        listening.setblocking(True)
        self.on_started()
        while True:
            guest, _ = listening.accept()
            metrics.refused("Guest")
            metrics.committed(kept=1, repeated=0, seconds=0.003)
            guest.sendall(b"%d\\n" % os.getpid() + metrics.text({"webhooks_inbox_up": 1}))
            guest.close()


def make_server(supervisor, on_started):
    assert supervisor == os.getppid()
    does = pathlib.Path(__file__).with_suffix(".txt").read_text()
    return (Counting if does == "counting" else Server)(on_started)
"""


@pytest.fixture(autouse=True)
def _signals_as_they_were():
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


class Supervised:
    """Runs a supervisor in this, the main thread, while a story runs in another and then ends it."""

    def __init__(self, folder, eventually):
        self.behaviour = folder / "worker_module.txt"
        self.behaviour.write_text("good")
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.address = self.listening.getsockname()
        self.make_server = importlib.import_module("worker_module").make_server
        self.eventually = eventually
        self.lines = []

    def run(self, story=None, count=1):
        """Return the exit code."""
        ended = threading.Event()

        def tell():
            try:
                story()
            finally:
                if not ended.is_set():  # else it would end the tests
                    os.kill(os.getpid(), signal.SIGTERM)

        thread = threading.Thread(target=tell)
        if story is not None:
            thread.start()
        with capture_logs() as self.lines:
            code = run_supervisor(self.make_server, [self.listening], count)
        ended.set()
        if story is not None:
            thread.join()
        return code

    def answer(self):
        """Return the first answer: this worker's end, unlike a real one's, cuts off what it has accepted."""
        answer = b""
        while not answer:
            with socket.create_connection(self.address, timeout=60) as connection:
                answer = connection.recv(100)
        return answer.decode().split()

    def metrics(self):
        """Return who answered, and the numbers by their names with labels."""
        text = b""
        while not text:
            with socket.create_connection(self.address, timeout=60) as connection:
                text = b"".join(iter(lambda: connection.recv(65536), b""))
        pid, _, rest = text.decode().partition("\n")
        samples = [each for family in text_string_to_metric_families(rest) for each in family.samples]
        return int(pid), {(each.name, *each.labels.values()): each.value for each in samples}

    def who_answers(self):
        return int(self.answer()[0])

    def events(self):
        return [line["event"] for line in self.lines]

    def started(self):
        return [line["pid"] for line in self.lines if line["event"] == "worker.started"]

    def wait_for(self, event, count=1):
        self.eventually(lambda: self.events().count(event) >= count, seconds=60)

    def reload(self):
        os.kill(os.getpid(), signal.SIGHUP)


@pytest.fixture
def supervised(tmp_path, monkeypatch, eventually):
    (tmp_path / "worker_module.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "worker_module", raising=False)
    monkeypatch.setattr(worker_metrics, "MEMORY", tmp_path)
    monkeypatch.setattr(supervisor, "BACKOFF", Backoff(timedelta(milliseconds=10), timedelta(seconds=5)))
    started = Supervised(tmp_path, eventually)
    yield started
    started.listening.close()


def is_running(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_workers_answer_on_the_socket_and_end_with_the_supervisor(supervised):
    seen = set()

    def story():
        supervised.eventually(lambda: seen.add(supervised.who_answers()) or len(seen) == 2, seconds=60)

    assert supervised.run(story, count=2) == 0
    assert seen == set(supervised.started())
    assert not any(is_running(pid) for pid in seen)
    assert "worker.died" not in supervised.events()


def test_on_sighup_workers_are_replaced(supervised):
    seen = []

    def story():
        seen.append(supervised.who_answers())
        supervised.reload()
        supervised.eventually(lambda: supervised.who_answers() != seen[0], seconds=60)
        supervised.wait_for("server.reloaded")

    assert supervised.run(story) == 0
    assert supervised.events() == ["worker.started", "server.reload_begun", "worker.started", "server.reloaded"]


def test_a_worker_that_dies_is_replaced(supervised):
    seen = []

    def story():
        seen.append(supervised.who_answers())
        os.kill(seen[0], signal.SIGKILL)
        supervised.wait_for("worker.died")
        seen.append(supervised.who_answers())

    assert supervised.run(story) == 0
    assert seen == supervised.started()
    (death,) = [line for line in supervised.lines if line["event"] == "worker.died"]
    assert (death["pid"], death["exit_code"], death["was"]) == (seen[0], -signal.SIGKILL, "ready")


def test_metrics_are_the_sum_over_the_workers_and_no_count_goes_back_when_one_is_replaced(supervised):
    supervised.behaviour.write_text("counting")
    answers = []

    def ask(until):
        def is_enough():
            answers.append(supervised.metrics())
            return until({pid for pid, _ in answers})

        supervised.eventually(is_enough, seconds=60)

    def story():
        ask(lambda seen: len(seen) == 2)
        os.kill(answers[-1][0], signal.SIGKILL)
        supervised.wait_for("worker.died")
        ask(lambda seen: len(seen) == 3)
        supervised.reload()
        supervised.wait_for("server.reloaded")
        ask(lambda seen: len(seen) == 5)

    assert supervised.run(story, count=2) == 0
    # Each answer counts itself, so whoever answers, the sum is the number of the answer.
    numbers = [number for _, number in answers]
    for name in (
        ("webhooks_requests_refused_total", "Guest"),
        ("webhooks_deliveries_kept_total",),
        ("webhooks_inbox_commit_seconds_count",),
        ("webhooks_inbox_commit_seconds_bucket", "0.005"),
    ):
        assert [each[name] for each in numbers] == list(range(1, len(numbers) + 1)), name
    seconds = [each["process_cpu_seconds_total",] for each in numbers]
    assert seconds == sorted(seconds)
    assert seconds[0] > 0
    assert {each["webhooks_relay_held",] for each in numbers} == {7}
    assert numbers[0]["process_open_fds",] > len([*Path("/proc/self/fd").iterdir()])
    assert not [*worker_metrics.MEMORY.glob("webhooks-metrics-*")]


def test_a_reload_whose_worker_does_not_start_leaves_the_old_one_serving(supervised):
    seen = []

    def story():
        seen.append(supervised.who_answers())
        supervised.behaviour.write_text("2")
        supervised.reload()
        supervised.wait_for("server.reload_failed")
        seen.append(supervised.who_answers())

    assert supervised.run(story) == 0
    assert seen[0] == seen[1]
    (death,) = [line for line in supervised.lines if line["event"] == "worker.died"]
    assert (death["exit_code"], death["was"]) == (2, "starting")


def test_the_supervisor_supervises_and_heeds_signals_while_a_replacement_starts(supervised):
    def story():
        supervised.eventually(lambda: len({supervised.who_answers() for _ in range(9)}) == 2, seconds=60)
        supervised.behaviour.write_text("silent")
        supervised.reload()
        supervised.wait_for("worker.started", 3)
        os.kill(supervised.started()[0], signal.SIGKILL)
        supervised.wait_for("worker.died")

    # SIGTERM comes next, long before the replacement is ready.
    assert supervised.run(story, count=2) == 0
    assert "server.reloaded" not in supervised.events()
    assert "server.reload_failed" not in supervised.events()
    assert not any(is_running(pid) for pid in supervised.started())


def test_a_sighup_before_any_worker_is_ready_replaces_it(supervised):
    supervised.behaviour.write_text("silent")
    seen = []

    def story():
        supervised.wait_for("worker.started")
        supervised.behaviour.write_text("good")
        supervised.reload()
        supervised.wait_for("server.reloaded")
        seen.append(supervised.who_answers())

    assert supervised.run(story) == 0
    assert seen == supervised.started()[1:]


def test_the_service_manager_hears_from_the_supervisor_alone(supervised, monkeypatch, tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(60)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        heard = []

        def story():
            heard.append(manager.recv(1000).decode())
            supervised.reload()
            heard.extend(manager.recv(1000).decode() for _ in range(2))
            heard.append(supervised.answer()[1])

        supervised.run(story)
        heard.append(manager.recv(1000).decode())
    ready, reloading, reloaded, in_worker, stopping = heard
    assert ready == f"READY=1\nMAINPID={os.getpid()}"
    assert reloading.startswith("RELOADING=1\nMONOTONIC_USEC=")
    assert (reloaded, in_worker, stopping) == ("READY=1", "None", "STOPPING=1")


@pytest.fixture
def refused(monkeypatch):
    """Have the machine refuse as many processes as the list has items."""
    real, left = Popen.__init__, []

    def launch(self, process):
        if left:
            left.pop()
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
        real(self, process)

    monkeypatch.setattr(Popen, "__init__", launch)
    return left


def test_the_other_workers_go_on_while_the_machine_has_no_room_for_another(supervised, refused):
    def story():
        supervised.eventually(lambda: len({supervised.who_answers() for _ in range(9)}) == 2, seconds=60)
        first, second = supervised.started()
        refused.extend("xx")
        os.kill(first, signal.SIGKILL)
        supervised.wait_for("worker.started", 3)
        assert is_running(second)

    assert supervised.run(story, count=2) == 0
    assert [line["error"] for line in supervised.lines if line["event"] == "worker.not_started"] == [
        "Resource temporarily unavailable"
    ] * 2


def test_a_reload_for_which_there_is_no_room_leaves_the_old_one_serving(supervised, refused):
    seen = []

    def story():
        seen.append(supervised.who_answers())
        refused.append("x")
        supervised.reload()
        supervised.wait_for("server.reload_failed")
        seen.append(supervised.who_answers())

    assert supervised.run(story) == 0
    assert seen[0] == seen[1]


def test_settings_that_another_start_would_not_mend_end_it_with_the_workers_exit_code(supervised):
    supervised.behaviour.write_text("2")
    assert supervised.run(count=2) == 2


def test_workers_that_never_start_are_tried_a_few_times(supervised, monkeypatch):
    monkeypatch.setattr(supervisor, "MAX_FAILED_STARTS", 3)
    supervised.behaviour.write_text("4")
    assert supervised.run() == 4
    assert supervised.events().count("worker.died") == 3


def test_a_worker_that_does_not_become_ready_is_killed(supervised, monkeypatch):
    monkeypatch.setattr(supervisor, "STARTUP_TIMEOUT", 0.1)
    monkeypatch.setattr(supervisor, "MAX_FAILED_STARTS", 2)
    supervised.behaviour.write_text("silent")
    assert supervised.run() == 1
    assert supervised.events().count("worker.not_ready") == 2


def test_a_worker_that_does_not_drain_is_killed(supervised, monkeypatch):
    monkeypatch.setattr(supervisor, "DRAIN_TIMEOUT", 0.3)
    supervised.behaviour.write_text("stubborn")
    assert supervised.run(supervised.who_answers) == 0
    assert supervised.events()[-1] == "worker.not_drained"
    assert not is_running(supervised.started()[0])


def test_a_second_signal_kills_workers_that_still_drain(supervised):
    supervised.behaviour.write_text("stubborn")

    def story():
        supervised.who_answers()
        threading.Timer(1.5, os.kill, (os.getpid(), signal.SIGINT)).start()

    assert supervised.run(story) == 0
    assert "worker.not_drained" not in supervised.events()
    assert not is_running(supervised.started()[0])
