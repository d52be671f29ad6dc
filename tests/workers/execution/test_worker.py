"""Real workers on a real Valkey."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
import redis
from rq.exceptions import StopRequested
from rq.executions import Execution
from rq.job import Job
from rq.serializers import JSONSerializer
from rq.worker import WorkerStatus

from ingest.config.settings import load_settings
from ingest.inbox.rows import open_for_inserts, row_of, upsert_rows
from ingest.inbox.schema import FILE_NAME
from ingest.queue.batch import ack_key, batch_key, lease_key
from ingest.queue.namespace import NamespacedRedis
from ingest.queue.queues import BATCH_JOB
from ingest.queue.redis_client import connect_queues, queue
from ingest.relay.outbox import Outbox
from ingest.relay.publisher import BatchPublisher
from ingest.wire.envelope import Envelope, Kind
from tests.conftest import NAMESPACE
from workers.dev.valkey import server_binary
from workers.execution.rq_worker import PreloadedWorker
from workers.execution.worker import RESTART, work_until_stopped
from workers.ledger import sessions
from workers.ledger.database.engine import create_ledger_engine
from workers.ledger.database.migrate import migrate

ENVIRONMENT = {"PLUGSURFING_HMAC_CURRENT": "key", "LOG_FORMAT": "json"}
OURS = ["-m", "workers.cli", "work"]


@pytest.fixture
def environment(valkey_url: str, tmp_path: Path) -> dict[str, str]:
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    migrate(url)
    return os.environ | ENVIRONMENT | {"REDIS_URL": valkey_url, "DATABASE_URL": url, "DATA_DIR": str(tmp_path)}


def offer(connection: redis.Redis, session_id: str, folder: Path) -> tuple[str, str]:
    """Keep an event and offer it, as `serve` does; the ids of the inbox and of the batch."""
    body = json.dumps(
        {"event": "SESSION_STARTED", "payload": {"sessionId": session_id, "timestamp": "2026-05-04T10:00:00Z"}}
    ).encode()
    with contextlib.closing(open_for_inserts(folder / FILE_NAME)) as file:
        upsert_rows(file, [row_of(Envelope(Kind.EVENTS, body, datetime.now(UTC), "current", None, {}))])
    with contextlib.closing(Outbox(folder / FILE_NAME)) as outbox:
        offers = BatchPublisher(outbox, connection, load_settings())
        offers.publish([outbox.next_batch("sessions", 1, 1000)])
        *_, batch = offers.in_flight
        return outbox.inbox_id, batch.batch_id


def test_a_worker_settles_a_batch(environment: dict[str, str], valkey: redis.Redis, tmp_path: Path) -> None:
    inbox_id, batch_id = offer(valkey, "S1", tmp_path)
    ended = subprocess.run(
        [sys.executable, *OURS, "--burst"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert valkey.lrange(ack_key(inbox_id), 0, -1) == [batch_id.encode()]
    assert not valkey.exists(batch_key(batch_id), lease_key(batch_id))
    with create_ledger_engine(environment["DATABASE_URL"]).connect() as ledger:
        session = sessions.get(ledger, "S1")
    assert session is not None
    assert session.status == "STARTED"


RELOADED = """
import os
from pathlib import Path
from handlers import on
from ingest.events import SessionStarted

@on(SessionStarted)
def write_version(event, ctx):
    with Path(os.environ["WRITTEN"]).open("a") as file:
        file.write(f"{event.session_id} by {VERSION}\\n")

VERSION = 1
"""


def test_with_reload_the_next_event_meets_the_code_that_was_changed(
    environment: dict[str, str], valkey: redis.Redis, tmp_path: Path, until: Callable[..., None]
) -> None:
    plugin, written, log_file = tmp_path / "reloaded.py", tmp_path / "written", tmp_path / "log"
    plugin.write_text(RELOADED)
    written.touch()
    more = {"HANDLER_MODULES": "reloaded", "WRITTEN": str(written)}
    with (
        log_file.open("w") as file,
        subprocess.Popen(
            [sys.executable, *OURS, "--reload"], env=environment | more, cwd=tmp_path, stdout=file, stderr=file
        ) as worker,
    ):
        try:
            offer(valkey, "S1", tmp_path)
            until(lambda: written.read_text() == "S1 by 1\n")
            plugin.write_text(RELOADED.replace("VERSION = 1", "VERSION = 1 / 0"))
            until(lambda: "waits for the next change" in log_file.read_text())
            assert "ZeroDivisionError" in log_file.read_text()
            plugin.write_text(RELOADED.replace("VERSION = 1", "VERSION = 2"))
            offer(valkey, "S2", tmp_path)
            until(lambda: written.read_text() == "S1 by 1\nS2 by 2\n")
        finally:
            worker.send_signal(signal.SIGTERM)
        assert worker.wait(timeout=60) == 0


PLUGIN = """
import os, signal
from pathlib import Path
from handlers import on
from ingest.events import SessionStarted

@on(SessionStarted)
def write_process(event, ctx):
    if event.session_id.startswith("crash"):
        os.kill(os.getpid(), signal.SIGKILL)
    with Path(os.environ["PROCESSES"]).open("a") as file:
        file.write(f"{os.getpid()}\\n")
"""


@pytest.mark.parametrize(("sessions_", "processes"), [(("S1", "S2", "S3"), (3, 1)), (("S1", "crash", "S2"), (2, 2))])
def test_one_process_does_one_job_after_another_until_a_handler_kills_it(
    environment: dict[str, str],
    valkey: redis.Redis,
    tmp_path: Path,
    sessions_: tuple[str, ...],
    processes: tuple[int, int],
) -> None:
    (tmp_path / "process_writer.py").write_text(PLUGIN)
    written = tmp_path / "processes"
    for session_id in sessions_:
        offer(valkey, session_id, tmp_path)
    more = {"HANDLER_MODULES": "process_writer", "PYTHONPATH": str(tmp_path), "PROCESSES": str(written)}
    subprocess.run([sys.executable, *OURS, "--burst"], env=environment | more, timeout=60, check=True)
    lines = written.read_text().split()
    assert (len(lines), len(set(lines))) == processes


def test_a_worker_that_starts_before_redis_waits_for_it_and_then_works(
    environment: dict[str, str], tmp_path: Path, until: Callable[..., None]
) -> None:
    socket, said = tmp_path / "redis", tmp_path / "said"
    with contextlib.ExitStack() as stack:
        log = stack.enter_context(said.open("wb"))
        environment |= {"REDIS_URL": f"unix://{socket}"}
        worker = stack.enter_context(subprocess.Popen([sys.executable, *OURS], env=environment, stderr=log))
        stack.callback(worker.kill)
        until(lambda: "retry_scheduled" in said.read_text(), patience=60)
        assert worker.poll() is None
        server = [
            str(server_binary()),
            "--port",
            "0",
            "--unixsocket",
            str(socket),
            "--save",
            "",
            "--logfile",
            "/dev/null",
        ]
        redis_server = stack.enter_context(subprocess.Popen(server, cwd=tmp_path))
        stack.callback(redis_server.kill)
        connection = stack.enter_context(connect_queues(environment["REDIS_URL"], NAMESPACE))
        until(lambda: is_there(connection), patience=60)
        inbox_id, _ = offer(connection, "S1", tmp_path)
        until(lambda: connection.llen(ack_key(inbox_id)), patience=60)
        worker.terminate()
        assert worker.wait(60) == 0


def is_there(connection: redis.Redis) -> bool:
    """Say whether Redis answers."""
    with contextlib.suppress(redis.RedisError):
        return bool(connection.ping())
    return False


def test_a_broken_plugin_stops_the_worker_with_a_sentence(environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "broken_plugin.py").write_text("import nothing_like_it\n")
    ended = subprocess.run(
        [sys.executable, *OURS],
        env=environment | {"HANDLER_MODULES": "broken_plugin", "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 2
    assert "broken_plugin" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_an_unknown_queue_is_wrong_usage(environment: dict[str, str]) -> None:
    ended = subprocess.run(
        [sys.executable, *OURS, "nonsense"], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 2
    assert "urgent, sessions, cdrs, other" in ended.stderr


def test_the_first_queue_comes_first_and_the_others_take_turns(valkey: redis.Redis) -> None:
    names = ("urgent", "sessions", "cdrs", "other")
    worker = PreloadedWorker([queue(name, valkey) for name in names], connection=valkey, serializer=JSONSerializer)
    waiting = dict.fromkeys(names, 100)

    def next_job() -> str:
        taken = next(each for each in worker._ordered_queues if waiting[each.name])  # noqa: SLF001 - RQ goes by it
        waiting[taken.name] -= 1
        worker.reorder_queues(taken)
        return taken.name

    taken = [next_job() for _ in range(8)]
    assert taken == ["urgent", "sessions", "urgent", "cdrs", "urgent", "other", "urgent", "sessions"]
    waiting["urgent"] = 0
    assert [next_job() for _ in range(4)] == ["cdrs", "other", "sessions", "cdrs"]
    waiting["urgent"] = 1
    assert next_job() == "urgent"


class RefusedWorker:
    """A worker of RQ whose loop ends because Redis has no memory: at its start, or later."""

    started = 0

    def __init__(self) -> None:
        self.is_stopping = False

    def work(self, **_options: object) -> None:
        RefusedWorker.started += 1
        if RefusedWorker.started == 1:
            raise redis.exceptions.OutOfMemoryError
        self.is_stopping = RefusedWorker.started == 3


def test_a_worker_that_redis_refuses_is_started_again_until_it_is_told_to_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(RefusedWorker, "started", 0)
    monkeypatch.setattr("workers.execution.worker.time.sleep", pauses.append)
    work_until_stopped(RefusedWorker, burst=False)  # type: ignore[arg-type]
    assert RefusedWorker.started == 3
    assert len(pauses) == 2
    assert all(0 < pause <= RESTART.longest.total_seconds() for pause in pauses)


def test_a_worker_is_made_again_until_redis_is_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """RQ asks Redis already when one is made: the process ended with an error, after a job without Redis."""
    workers = iter([RefusedWorker(), None, None, RefusedWorker()])

    def make() -> RefusedWorker:
        made = next(workers)
        if made is None:
            raise redis.exceptions.ConnectionError
        return made

    monkeypatch.setattr(RefusedWorker, "started", 1)
    monkeypatch.setattr("workers.execution.worker.time.sleep", lambda _seconds: None)
    work_until_stopped(make, burst=False)  # type: ignore[arg-type]
    assert RefusedWorker.started == 3


def test_a_worker_that_was_told_to_end_does_not_wait_for_a_job(valkey: NamespacedRedis) -> None:
    """RQ only remembers the signal where it takes the worker for busy: one waited for a Redis that was gone."""
    worker = PreloadedWorker([queue("sessions", valkey)], connection=valkey, serializer=JSONSerializer)
    worker.is_stopping = True
    with pytest.raises(StopRequested):
        worker.dequeue_job_and_maintain_ttl(1, max_idle_time=1)


def test_a_worker_lets_its_job_go_on_when_redis_is_gone(valkey: NamespacedRedis, tmp_path: Path) -> None:
    worker = PreloadedWorker([queue("sessions", valkey)], connection=valkey, serializer=JSONSerializer)
    worker.connection = connect_queues(f"unix://{tmp_path}/gone", NAMESPACE)
    job = Job.create(BATCH_JOB, connection=worker.connection, serializer=JSONSerializer, timeout=60)
    execution = Execution("execution", job.id, worker.connection)
    execution._job = job  # noqa: SLF001 - as RQ does
    worker.maintain_heartbeats(job, execution)
    worker._state = WorkerStatus.BUSY  # noqa: SLF001 - as while a job runs
    worker.request_stop(signal.SIGTERM, None)
    assert worker.is_stopping


def test_a_worker_that_ends_without_redis_leaves_no_thread(until: Callable[..., None], tmp_path: Path) -> None:
    """The next worker of its process starts one of its own: each outage of Redis left one more, and a connection."""
    command = [str(server_binary()), "--port", "0", "--unixsocket", str(tmp_path / "redis"), "--save", ""]
    with subprocess.Popen([*command, "--logfile", "/dev/null"], cwd=tmp_path) as server:
        connection = connect_queues(f"unix://{tmp_path}/redis", NAMESPACE)
        until(lambda: is_there(connection))
        worker = PreloadedWorker([queue("sessions", connection)], connection=connection, serializer=JSONSerializer)
        worker.subscribe()  # type: ignore[no-untyped-call]
        listener = worker.pubsub_thread
        assert isinstance(listener, threading.Thread)
        server.kill()
    with pytest.raises(redis.RedisError):
        worker.teardown()
    until(lambda: not listener.is_alive())
