import contextlib
import errno
import os
import signal
import sqlite3
import time

import httpx
from starlette.applications import Starlette
from starlette.routing import Route
from structlog.testing import capture_logs

from ingest.config.settings import load_settings
from ingest.http.app import PATHS, create_app
from ingest.inbox.corruption import is_marked_corrupt
from ingest.inbox.inbox import REPLACED, Inbox
from ingest.inbox.schema import FILE_NAME, open_inbox_file
from ingest.queue.queues import QUEUES
from ingest.queue.redis_client import queue
from ingest.relay.relay import Relay, RelayStatus
from ingest.wire.envelope import Kind
from ingest.wire.signature import sign

KEY = "the-current-key"


def post(port, body, key=KEY, kind=Kind.EVENTS):
    headers = {"X-HMAC-SHA512-Signature": sign(body, key.encode())}
    return httpx.post(f"http://127.0.0.1:{port}{PATHS[kind]}", content=body, headers=headers)


class RecordingRelay(Relay):
    """Records the calls, in their order."""

    def __init__(self, calls):
        self.calls = calls

    def start(self):
        self.calls.append("relay.start")

    def stop(self):
        self.calls.append("relay.stop")

    def wake(self):
        self.calls.append("relay.wake")

    def on_corruption(self, callback):
        pass

    def status(self):
        return RelayStatus()


class CorruptRelay(Relay):
    def _acquire_leadership(self):
        error = sqlite3.DatabaseError("database disk image is malformed")
        error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
        raise error


def test_creating_an_application_opens_nothing(settings):
    app = create_app(settings)

    assert isinstance(app, Starlette)
    assert {route.path for route in app.routes if isinstance(route, Route)} >= {*PATHS.values(), "/healthz", "/readyz"}
    assert list(settings.data_dir.iterdir()) == []


def test_parts_start_and_stop_in_order_and_every_commit_wakes_the_relay(settings, serving, monkeypatch):
    calls = []

    class RecordingInbox(Inbox):
        def start(self):
            calls.append("inbox.start")
            super().start()

        def close(self):
            super().close()
            calls.append("inbox.close")

    inbox = RecordingInbox(settings.data_dir / FILE_NAME, settings)
    port = serving(create_app(settings, inbox=inbox, relay=RecordingRelay(calls)))
    assert post(port, b"{}").status_code == 200
    serving.stop()

    assert calls == ["inbox.start", "relay.start", "relay.wake", "relay.stop", "inbox.close"]


def test_a_stored_delivery_goes_to_the_queue_of_its_kind(tmp_path, serving, valkey, valkey_url, eventually):
    settings = load_settings(data_dir=tmp_path, plugsurfing_hmac_current=KEY, redis_url=valkey_url)
    port = serving(create_app(settings))
    post(port, b'{"event": "SESSION_FEE_INCURRING", "payload": {"sessionId": "s"}}')
    post(port, b'{"event": "SESSION_STARTED", "payload": {"sessionId": "s"}}')
    post(port, b'{"event": "SESSION_STARTED", "payload": {"sessionId": "s"}}', kind=Kind.CDRS)
    post(port, b"not json")

    eventually(lambda: [queue(name, valkey).count for name in QUEUES] == [1, 1, 1, 1, 0])


def test_the_last_deliveries_are_published_before_the_process_ends(tmp_path, serving, valkey, valkey_url):
    settings = load_settings(data_dir=tmp_path, plugsurfing_hmac_current=KEY, redis_url=valkey_url, hold_back="1m")
    port = serving(create_app(settings))
    for number in range(20):
        assert post(port, b'{"event": "SESSION_STARTED", "number": %d}' % number).status_code == 200
    serving.stop()

    with contextlib.closing(open_inbox_file(tmp_path / FILE_NAME)) as file:
        (waiting,) = file.execute("SELECT count(*) FROM deliveries WHERE batch IS NULL").fetchone()
    assert waiting == 0
    assert queue("sessions", valkey).count >= 1


def test_a_process_without_redis_ends_in_time(settings, serving):
    port = serving(create_app(settings))
    post(port, b"{}")
    begun = time.monotonic()
    serving.stop()

    assert time.monotonic() - begun < 5


def test_a_new_key_verifies_without_a_restart(tmp_path, serving, eventually, monkeypatch):
    monkeypatch.setattr("ingest.config.secret_reload.REREAD_EVERY", 0.02)
    file = tmp_path / "key"
    file.write_text("the old key")
    settings = load_settings(data_dir=tmp_path / "var", plugsurfing_hmac_current_file=file)
    port = serving(create_app(settings))
    assert post(port, b"{}", "the old key").status_code == 200

    file.with_suffix(".new").write_text("the new key")
    file.with_suffix(".new").rename(file)
    eventually(lambda: post(port, b"{}", "the new key").status_code == 200)
    assert post(port, b"{}", "the old key").status_code == 403


def test_two_processes_share_one_data_folder(settings, serving):
    ports = [serving(create_app(settings)) for _ in range(2)]
    answers = [post(port, b"{}").json()["duplicate"] for port in (*ports, *ports)]

    assert answers == [False, True, True, True]


def test_without_a_signature_the_authorization_header_is_required(tmp_path, serving):
    settings = load_settings(
        data_dir=tmp_path, plugsurfing_hmac_required=False, plugsurfing_authorization="Bearer the-token"
    )
    port = serving(create_app(settings))
    url = f"http://127.0.0.1:{port}{PATHS[Kind.EVENTS]}"

    assert httpx.post(url, content=b"{}").status_code == 403
    assert httpx.post(url, content=b"{}", headers={"Authorization": "Bearer the-token"}).status_code == 200


def test_when_one_process_finds_the_file_corrupt_all_end(settings, serving, eventually, monkeypatch):
    ended = []
    monkeypatch.setattr("ingest.http.app._terminate_self", ended.append)
    for _ in range(2):
        serving(create_app(settings))
    path = settings.data_dir / FILE_NAME

    serving(create_app(settings, relay=CorruptRelay(path, settings)))
    eventually(lambda: len(ended) == 3)
    assert is_marked_corrupt(path)


def test_processes_whose_file_was_deleted_answer_503_and_end(settings, serving, eventually, monkeypatch):
    ended = []
    monkeypatch.setattr("ingest.http.app._terminate_self", ended.append)
    monkeypatch.setattr("ingest.http.app.CORRUPTION_POLL", 0.01)
    ports = [serving(create_app(settings)) for _ in range(2)]
    assert post(ports[0], b"{}").status_code == 200
    for file in settings.data_dir.glob(f"{FILE_NAME}*"):
        file.unlink()
    assert post(ports[1], b"{}").status_code == 503
    eventually(lambda: ended == [REPLACED, REPLACED])


def test_a_process_that_cannot_mark_the_file_corrupt_ends_alone(settings, serving, monkeypatch, eventually):
    def full(_path):
        raise OSError(errno.ENOSPC, "No space left on device")

    signals = []
    monkeypatch.setattr("ingest.http.app.mark_corrupt", full)
    monkeypatch.setattr(os, "kill", lambda pid, number: signals.append((pid, number)))
    with capture_logs() as logs:
        serving(create_app(settings, relay=CorruptRelay(settings.data_dir / FILE_NAME, settings)))
        eventually(lambda: signals)
    assert signals[0] == (os.getpid(), signal.SIGTERM)
    events = [line["event"] for line in logs]
    assert events.index("inbox.mark_failed") < events.index("server.draining")
