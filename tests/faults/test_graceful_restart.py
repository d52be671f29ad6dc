"""Restart, reload and upgrade of `serve` under load: no request is refused, reset or left without a response."""

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
from ingest.queue.redis_client import queue
from tests.faults.cluster import is_answering_http, wait_until
from tests.faults.keep_alive_senders import KEY, KeepAliveSenders, event, request
from tests.ports import reserve_port

WEBHOOKS = str(Path(sys.executable).with_name("webhooks"))
# In seconds, by its own log: how long the interpreter takes to exit depends on the machine.
ENDS_WITHIN = 10.0
# Plays systemd: passes file 3 to a program, with its own process id in LISTEN_PID.
STARTER = "import os, sys; os.environ['LISTEN_PID'] = str(os.getpid()); os.execv(sys.argv[1], sys.argv[1:])"


class Serve:
    """`webhooks serve` as a process of its own, with its log in a file."""

    def __init__(self, folder, *arguments, listening=None, port=0):
        self.folder, self.port = folder, port
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

    def wait_for(self, event, count=1):
        wait_until(lambda: len(self.lines(event)) >= count, f"{event} is logged {count} times")

    def wait_until_it_answers(self):
        wait_until(lambda: is_answering_http(self.port), "the server answers")

    def reload(self):
        """Send SIGHUP, and wait until all workers are replaced."""
        count = len(self.lines("server.reloaded"))
        self.process.send_signal(signal.SIGHUP)
        self.wait_for("server.reloaded", count + 1)

    def end(self):
        """Send SIGTERM; return the exit code, and after how many seconds the last log line was written."""
        requested_at = datetime.now(UTC)
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(timeout=60)
        return code, (datetime.fromisoformat(self.lines()[-1]["timestamp"]) - requested_at).total_seconds()

    def stored(self):
        with contextlib.closing(open_inbox_file(self.folder / "var" / FILE_NAME)) as file:
            return {row[0] for row in file.execute("SELECT id FROM deliveries")}

    def gaps(self):
        with contextlib.closing(open_inbox_file(self.folder / "var" / FILE_NAME)) as file:
            return [tuple(row) for row in file.execute("SELECT closed_at, opened_at FROM gaps")]


@pytest.fixture
def start():
    """Start servers, and end them after the test."""
    with contextlib.ExitStack() as running:

        def start_one(*arguments, **options):
            serve = Serve(*arguments, **options)
            running.callback(
                lambda: serve.process.poll() is None and (serve.process.terminate(), serve.process.wait(60))
            )
            return serve

        yield start_one


@pytest.fixture(scope="module")
def workers(tmp_path_factory):
    """A server with two workers, for all tests that leave it as it was."""
    serve = Serve(tmp_path_factory.mktemp("workers"), "--workers", "2", port=reserve_port())
    serve.wait_until_it_answers()
    wait_until(lambda: len(serve.lines("Application startup complete.")) == 2, "both workers serve")
    yield serve
    code, seconds = serve.end()
    assert (code, seconds < ENDS_WITHIN) == (0, True)


@pytest.fixture
def listening():
    """A socket that systemd has opened."""
    with socket.create_server(("127.0.0.1", 0), backlog=2048) as opened:
        yield opened


def status(port, body):
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(request(body))
        return int(connection.recv(100).split()[1])


def wait_for_more(senders, count):
    """Wait for that many more answers."""
    wanted = len(senders.kept) + count
    wait_until(lambda: len(senders.kept) >= wanted or senders.failures, "more is stored")
    assert senders.failures == []


def test_a_service_restarts_under_load_without_losing_a_request(tmp_path, start, listening):
    (tmp_path / ".env").write_text("GAP_SHORTEST=1 m\n")  # on a busy machine the interpreter takes seconds to start
    serve = start(tmp_path, listening=listening)
    with KeepAliveSenders(listening.getsockname()[1]) as senders:
        for _ in range(2):
            wait_for_more(senders, 100)
            code, seconds = serve.end()
            assert (code, seconds < ENDS_WITHIN) == (0, True)
            serve = start(tmp_path, listening=listening)
        wait_for_more(senders, 100)
    serve.end()

    assert senders.failures == []
    assert senders.kept == serve.stored()
    assert serve.gaps() == []


def test_after_a_restart_under_load_all_deliveries_are_on_their_queue(tmp_path, start, listening, valkey, valkey_url):
    """No worker runs, so Redis has what was published: all but what came last is there when the process has ended."""
    (tmp_path / ".env").write_text(f"REDIS_URL={valkey_url}\nHOLD_BACK=1 m\n")
    serve = start(tmp_path, listening=listening)
    with KeepAliveSenders(listening.getsockname()[1]) as senders:
        wait_for_more(senders, 300)
        code, seconds = serve.end()
        with contextlib.closing(open_inbox_file(tmp_path / "var" / FILE_NAME)) as file:
            (waiting,) = file.execute("SELECT count(*) FROM deliveries WHERE batch IS NULL").fetchone()
        serve = start(tmp_path, listening=listening)
        wait_for_more(senders, 50)
    serve.end()

    assert (code, seconds < ENDS_WITHIN) == (0, True)
    assert senders.failures == []
    assert waiting == 0
    published = [Batch.from_json(valkey.get(batch_key(job_id))) for job_id in queue("sessions", valkey).job_ids]
    assert {delivery.id for batch in published for delivery in batch.deliveries} == senders.kept


def test_workers_are_replaced_under_load_without_losing_a_request(workers):
    """Some senders are never idle; the requests of others arrive just when idle connections would be closed."""
    before = workers.stored()
    started, died = (len(workers.lines(event)) for event in ("worker.started", "worker.died"))
    resting_senders = KeepAliveSenders(workers.port, senders=40, longest_rest=2.0)
    with KeepAliveSenders(workers.port) as senders, resting_senders:
        for _ in range(2):
            wait_for_more(senders, 100)
            wait_for_more(resting_senders, 60)
            workers.reload()
        wait_for_more(senders, 100)
        wait_for_more(resting_senders, 60)

    assert senders.failures + resting_senders.failures == []
    assert senders.kept | resting_senders.kept == workers.stored() - before
    assert workers.gaps() == []
    assert len(workers.lines("worker.started")) - started == 2 * 2
    assert len(workers.lines("worker.died")) == died


def test_new_workers_use_new_settings(workers):
    long = b"x" * 500
    assert status(workers.port, long) == 200
    (workers.folder / ".env").write_text("MAX_BODY_BYTES=400\n")  # enough for the events of the other tests
    workers.reload()
    # The last of the old ones may still answer those who connected to it.
    wait_until(lambda: {status(workers.port, long) for _ in range(10)} == {413}, "all use the new setting")


def test_a_version_that_does_not_start_leaves_the_old_workers_serving(workers):
    died = len(workers.lines("worker.died"))
    (workers.folder / ".env").write_text("BODY_TIMEOUT=soon\n")
    try:
        workers.process.send_signal(signal.SIGHUP)
        workers.wait_for("server.reload_failed")
    finally:
        (workers.folder / ".env").unlink()

    assert is_answering_http(workers.port)
    (death,) = workers.lines("worker.died")[died:]
    assert (death["exit_code"], death["was"]) == (2, "starting")
    assert "Error: BODY_TIMEOUT" in workers.log.read_text()
    assert "Traceback" not in workers.log.read_text()


def test_a_worker_that_is_killed_is_replaced_while_the_socket_stays_open(tmp_path, start):
    serve = start(tmp_path, "--workers", "1", port=reserve_port())
    serve.wait_until_it_answers()
    (first,) = serve.lines("worker.started")
    os.kill(first["pid"], signal.SIGKILL)
    with socket.create_connection(("127.0.0.1", serve.port), timeout=60) as early:  # no worker is there yet
        early.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert early.recv(100).startswith(b"HTTP/1.1 200")

    (death,) = serve.lines("worker.died")
    assert (death["pid"], death["exit_code"]) == (first["pid"], -signal.SIGKILL)

    # And when the supervisor itself is killed, its workers end.
    serve.process.kill()
    serve.process.wait()
    pids = [line["pid"] for line in serve.lines("worker.started")]
    wait_until(lambda: not any(Path(f"/proc/{pid}/cmdline").exists() for pid in pids), "the workers have ended")


def test_a_gap_is_measured_logged_listed_and_published_to_redis(tmp_path, start, valkey, valkey_url):
    (tmp_path / ".env").write_text(f"REDIS_URL={valkey_url}\n")
    port = reserve_port()
    for _ in range(2):
        serve = start(tmp_path, port=port)
        serve.wait_until_it_answers()
        serve.end()
        with contextlib.closing(open_inbox_file(tmp_path / "var" / FILE_NAME)) as file:
            file.execute("UPDATE meta SET value = json_remove(value, '$.boot', '$.since_boot') WHERE name = 'alive'")
            file.execute("UPDATE meta SET value = json_set(value, '$.at', value ->> 'at' - 90) WHERE name = 'alive'")
    serve = start(tmp_path, port=port)
    wait_until(lambda: valkey.hlen(GAPS) == 2, "both gaps are in Redis")

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
    published = sorted(json.loads(text)["closed_at"] for text in valkey.hvals(GAPS))
    assert published == [datetime.fromtimestamp(at, UTC).isoformat() for at, _ in serve.gaps()]


def test_it_ends_within_ten_seconds_whatever_delays_it(tmp_path, start):
    """A Redis that does not answer, a body that is never complete, and an idle connection."""
    with socket.create_server(("127.0.0.1", 0)) as hanging:
        (tmp_path / ".env").write_text(f"REDIS_URL=redis://127.0.0.1:{hanging.getsockname()[1]}\nBODY_TIMEOUT=60 s\n")
        serve = start(tmp_path, "--workers", "1", port=reserve_port())
        serve.wait_until_it_answers()
        address = "127.0.0.1", serve.port
        with socket.create_connection(address) as slow, socket.create_connection(address):
            slow.sendall(request(event())[:-1])
            code, seconds = serve.end()
    assert code == 0
    assert seconds < ENDS_WITHIN


def test_a_socket_that_does_not_listen_is_refused(tmp_path, start):
    with socket.socket() as not_listening:
        assert start(tmp_path, listening=not_listening).process.wait(timeout=60) == 2
    assert "does not listen" in (tmp_path / "serve.log").read_text()
