"""Restart, reload and upgrade of `serve` under load: nobody is refused, reset or left without an answer."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from ingest.inbox.downtime import KEY as GAPS
from ingest.inbox.schema import FILE_NAME, open_inbox_file
from ingest.queue.batch import Batch, batch_key
from ingest.queue.queues import queue
from tests.faults.cluster import free_port, is_answering_http, wait_until
from tests.faults.keep_alive_senders import KEY, KeepAliveSenders, event, request

WEBHOOKS = str(Path(sys.executable).with_name("webhooks"))
#: In seconds, by what it says itself: how long the interpreter is taken down for is the machine's business.
ENDS_WITHIN = 10.0
# Plays systemd: gives file 3 to a program, and tells it so under its own number.
STARTER = "import os, sys; os.environ['LISTEN_PID'] = str(os.getpid()); os.execv(sys.argv[1], sys.argv[1:])"


class Serve:
    """`webhooks serve` as a process of its own, with its log in a file."""

    def __init__(self, folder, *arguments, listening=None, port=0):
        self.log = folder / "serve.log"
        environment = {
            **os.environ,
            "DATA_DIR": str(folder / "var"),
            "PLUGSURFING_HMAC_CURRENT": KEY.decode(),
            "LOG_FORMAT": "json",
            "PORT": str(port),
        }
        command = [WEBHOOKS, "serve", *arguments]
        if listening is not None:
            environment["LISTEN_FDS"] = "1"
            command = [sys.executable, "-c", STARTER, *command]
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                command,
                env=environment,
                cwd=folder,
                stderr=log,
                preexec_fn=None if listening is None else lambda: os.dup2(listening.fileno(), 3, inheritable=True),  # noqa: PLW1509  one call
                close_fds=listening is None,
            )

    def lines(self, event=None):
        found = [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]
        return [line for line in found if event in {None, line["event"]}]

    def end(self, number=signal.SIGTERM):
        """Ask it to end; tell its exit code, and after how many seconds it said its last word."""
        asked_at = datetime.now(UTC)
        self.process.send_signal(number)
        code = self.process.wait(timeout=30)
        return code, (datetime.fromisoformat(self.lines()[-1]["timestamp"]) - asked_at).total_seconds()


@pytest.fixture
def started():
    """End what a test has started."""
    running = []
    yield lambda *arguments, **options: running.append(Serve(*arguments, **options)) or running[-1]
    for each in running:
        if each.process.poll() is None:
            each.process.terminate()
            each.process.wait(timeout=30)


@pytest.fixture
def listening():
    """A socket that systemd has opened."""
    with socket.create_server(("127.0.0.1", 0), backlog=2048) as opened:
        yield opened


def kept(folder):
    with contextlib.closing(open_inbox_file(folder / "var" / FILE_NAME)) as file:
        return {row[0] for row in file.execute("SELECT id FROM deliveries")}


def gaps(folder):
    with contextlib.closing(open_inbox_file(folder / "var" / FILE_NAME)) as file:
        return [tuple(row) for row in file.execute("SELECT closed_at, opened_at FROM gaps")]


def status(port, body):
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(request(body))
        return int(connection.recv(100).split()[1])


def go_on_for(crowd, count):
    """Let so many more answers come."""
    wanted = len(crowd.kept) + count
    wait_until(lambda: len(crowd.kept) >= wanted or crowd.failures, "more is kept")


def test_a_service_is_restarted_under_load_and_nobody_notices(tmp_path, started, listening):
    port = listening.getsockname()[1]
    serve = started(tmp_path, listening=listening)
    with KeepAliveSenders(port) as crowd:
        for _ in range(2):
            go_on_for(crowd, 100)
            code, seconds = serve.end()
            assert code == 0
            assert seconds < ENDS_WITHIN
            serve = started(tmp_path, listening=listening)
        go_on_for(crowd, 100)
    serve.end()

    assert crowd.failures == []
    assert crowd.kept == kept(tmp_path)
    assert gaps(tmp_path) == []


def test_workers_are_replaced_under_load_and_nobody_notices(tmp_path, started):
    port = free_port()
    serve = started(tmp_path, "--workers", "2", port=port)
    wait_until(lambda: is_answering_http(port), "the door answers")
    with KeepAliveSenders(port) as crowd:
        for number in range(1, 3):
            go_on_for(crowd, 100)
            serve.process.send_signal(signal.SIGHUP)
            wait_until(
                lambda number=number: len(serve.lines("door.reloaded")) == number or crowd.failures, "it has reloaded"
            )
        go_on_for(crowd, 100)
    code, seconds = serve.end()

    assert crowd.failures == []
    assert crowd.kept == kept(tmp_path)
    assert (code, seconds < ENDS_WITHIN) == (0, True)
    assert gaps(tmp_path) == []
    assert len(serve.lines("worker.started")) == 2 * 3
    assert serve.lines("worker.died") == []


def test_new_processes_go_by_new_settings(tmp_path, started):
    port = free_port()
    (tmp_path / ".env").write_text("MAX_BODY_BYTES=1000\n")
    serve = started(tmp_path, "--workers", "2", port=port)
    wait_until(lambda: is_answering_http(port), "the door answers")
    long = b"x" * 500
    assert status(port, long) == 200
    (tmp_path / ".env").write_text("MAX_BODY_BYTES=100\n")
    serve.process.send_signal(signal.SIGHUP)
    wait_until(lambda: serve.lines("door.reloaded"), "it has reloaded")
    # The last of the old ones was told to leave, and may still answer who came to it.
    wait_until(lambda: {status(port, long) for _ in range(10)} == {413}, "all go by the new setting")


def test_what_a_restart_under_load_leaves_behind_is_on_its_queue(tmp_path, started, listening, valkey, valkey_url):
    """Nobody works, so Redis has what was offered: all but what came last is there when the process has ended."""
    (tmp_path / ".env").write_text(f"REDIS_URL={valkey_url}\nHOLD_BACK=1 m\n")
    serve = started(tmp_path, listening=listening)
    with KeepAliveSenders(listening.getsockname()[1]) as crowd:
        go_on_for(crowd, 300)
        code, seconds = serve.end()
        with contextlib.closing(open_inbox_file(tmp_path / "var" / FILE_NAME)) as file:
            (waiting,) = file.execute("SELECT count(*) FROM deliveries WHERE batch IS NULL").fetchone()
        serve = started(tmp_path, listening=listening)
        go_on_for(crowd, 50)
    serve.end()

    assert (code, seconds < ENDS_WITHIN) == (0, True)
    assert crowd.failures == []
    assert waiting == 0
    offered = [Batch.from_json(valkey.get(batch_key(job_id))) for job_id in queue("sessions", valkey).job_ids]
    assert {delivery.id for batch in offered for delivery in batch.deliveries} == crowd.kept


def test_a_worker_that_is_killed_is_replaced_and_the_socket_stays_open(tmp_path, started):
    port = free_port()
    serve = started(tmp_path, "--workers", "1", port=port)
    wait_until(lambda: is_answering_http(port), "the door answers")
    (first,) = serve.lines("worker.started")
    os.kill(first["pid"], signal.SIGKILL)
    with socket.create_connection(("127.0.0.1", port), timeout=20) as early:  # nobody is there yet
        early.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert early.recv(100).startswith(b"HTTP/1.1 200")

    (death,) = serve.lines("worker.died")
    assert (death["pid"], death["exit_code"]) == (first["pid"], -signal.SIGKILL)


def test_a_version_that_does_not_start_leaves_the_old_one_serving(tmp_path, started):
    port = free_port()
    (tmp_path / ".env").write_text("BODY_TIMEOUT=5 s\n")
    serve = started(tmp_path, "--workers", "2", port=port)
    wait_until(lambda: is_answering_http(port), "the door answers")
    (tmp_path / ".env").write_text("BODY_TIMEOUT=soon\n")
    serve.process.send_signal(signal.SIGHUP)
    wait_until(lambda: serve.lines("door.reload_failed"), "the new version has failed")

    assert is_answering_http(port)
    assert serve.end()[0] == 0
    (death,) = serve.lines("worker.died")
    assert death["exit_code"] == 2
    assert "Error: BODY_TIMEOUT" in serve.log.read_text()
    assert "Traceback" not in serve.log.read_text()


def test_workers_leave_when_their_supervisor_is_killed(tmp_path, started):
    port = free_port()
    serve = started(tmp_path, "--workers", "2", port=port)
    wait_until(lambda: len(serve.lines("worker.started")) == 2 and is_answering_http(port), "both workers answer")
    serve.process.kill()
    serve.process.wait()
    workers = [line["pid"] for line in serve.lines("worker.started")]
    wait_until(lambda: not any(Path(f"/proc/{pid}/cmdline").exists() for pid in workers), "the workers have left")


def test_who_rests_on_a_connection_while_its_process_is_replaced_loses_nothing(tmp_path, started):
    """Their events come just when idle connections would be closed."""
    port = free_port()
    serve = started(tmp_path, "--workers", "1", port=port)
    wait_until(lambda: is_answering_http(port), "the door answers")
    with KeepAliveSenders(port, senders=40, longest_rest=2.0) as crowd:
        go_on_for(crowd, 60)
        serve.process.send_signal(signal.SIGHUP)
        wait_until(lambda: serve.lines("door.reloaded"), "it has reloaded")
        go_on_for(crowd, 60)
    serve.end()
    assert crowd.failures == []
    assert crowd.kept == kept(tmp_path)


def test_a_gap_is_measured_logged_listed_and_told_to_redis(tmp_path, started, valkey, valkey_url):
    (tmp_path / ".env").write_text(f"REDIS_URL={valkey_url}\n")
    port = free_port()
    for _ in range(2):
        serve = started(tmp_path, port=port)
        wait_until(lambda: is_answering_http(port), "the door answers")
        serve.end()
        with contextlib.closing(open_inbox_file(tmp_path / "var" / FILE_NAME)) as file:
            file.execute("UPDATE meta SET value = json_remove(value, '$.boot', '$.since_boot') WHERE name = 'alive'")
            file.execute("UPDATE meta SET value = json_set(value, '$.at', value ->> 'at' - 90) WHERE name = 'alive'")
    serve = started(tmp_path, port=port)
    wait_until(lambda: valkey.hlen(GAPS) == 2, "both gaps are told")

    listed = subprocess.run(
        [WEBHOOKS, "deliveries", "--gaps", "--json"],
        env={**os.environ, "DATA_DIR": str(tmp_path / "var")},
        cwd=tmp_path,
        capture_output=True,
        check=True,
    )
    lengths = [json.loads(line)["seconds"] for line in listed.stdout.splitlines()]
    assert [round(length, 1) for length in reversed(lengths)] == [
        line["seconds"] for line in serve.lines("downtime.detected")
    ]
    assert all(90 < length < 150 for length in lengths)
    told = sorted(json.loads(text)["closed_at"] for text in valkey.hvals(GAPS))
    assert told == [datetime.fromtimestamp(at, UTC).isoformat() for at, _ in gaps(tmp_path)]


def test_it_ends_within_ten_seconds_whatever_holds_it_up(tmp_path, started):
    """A Redis that does not answer, a body that does not come to its end, and a connection that nobody uses."""
    port = free_port()
    with socket.create_server(("127.0.0.1", 0)) as hanging:
        (tmp_path / ".env").write_text(f"REDIS_URL=redis://127.0.0.1:{hanging.getsockname()[1]}\nBODY_TIMEOUT=60 s\n")
        serve = started(tmp_path, "--workers", "1", port=port)
        wait_until(lambda: is_answering_http(port), "the door answers")
        with socket.create_connection(("127.0.0.1", port)) as slow, socket.create_connection(("127.0.0.1", port)):
            slow.sendall(request(event())[:-1])
            code, seconds = serve.end()
    assert code == 0
    assert seconds < ENDS_WITHIN


def test_what_is_handed_over_must_listen(tmp_path, started):
    with socket.socket() as deaf:
        serve = started(tmp_path, listening=deaf)
        assert serve.process.wait(timeout=30) == 2
    assert "does not listen" in serve.log.read_text()
