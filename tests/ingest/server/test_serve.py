import asyncio
import errno
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest

from ingest.config.settings import load_settings
from ingest.errors import SettingsError
from ingest.inbox.schema import FILE_NAME, open_inbox_file
from ingest.server import serve as serve_module
from ingest.server.graceful_shutdown import DrainingServer
from ingest.server.serve import serve, serve_with_workers, worker_server
from ingest.wire.signature import sign
from tests.ports import reserve_port

KEY = "the-current-key"
SERVE = (
    "from ingest.server.serve import serve; from ingest.config.settings import load_settings; serve(load_settings())"
)


def is_up(port):
    try:
        return httpx.get(f"http://127.0.0.1:{port}/healthz").status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture
def signals_restored():
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def process(tmp_path, eventually):
    """Start `serve` in a process of its own; return it and its port."""
    started = []

    def start(**environment):
        port = reserve_port()
        given = {"DATA_DIR": tmp_path / "var", "PORT": port, "PLUGSURFING_HMAC_CURRENT": KEY, **environment}
        child = subprocess.Popen(
            [sys.executable, "-c", SERVE],
            env={**os.environ, **{name: str(value) for name, value in given.items()}},
            cwd=tmp_path,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(child)
        eventually(lambda: is_up(port), seconds=30)
        return child, port

    yield start
    for child in started:
        child.kill()
        child.wait()
        child.stderr.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_process_ends_in_order_on_a_signal(process, number):
    child, port = process()
    begun = time.monotonic()
    with httpx.Client(base_url=f"http://127.0.0.1:{port}") as idle:  # an idle connection does not delay it
        idle.get("/healthz")
        child.send_signal(number)
        assert child.wait(timeout=10) == 0
    lines = [json.loads(line) for line in child.stderr]

    assert time.monotonic() - begun < 8
    assert lines[0] == lines[0] | {"event": "server.listening", "process": "serve", "host": "127.0.0.1", "port": port}
    assert not [line for line in lines if line["level"] == "error"]


def test_a_request_under_way_is_answered_before_the_process_ends(process, tmp_path):
    child, port = process()
    body = b'{"event": "SESSION_STARTED"}'
    with socket.create_connection(("127.0.0.1", port), timeout=10) as sender:
        head = f"POST /plugsurfing/events HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
        sender.sendall(f"{head}X-HMAC-SHA512-Signature: {sign(body, KEY.encode())}\r\n\r\n".encode() + body[:5])
        while is_up(port):
            child.send_signal(signal.SIGTERM)
            time.sleep(0.05)
        sender.sendall(body[5:])
        answer = sender.recv(65536)

    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"connection: close" in answer
    assert child.wait(timeout=10) == 0
    file = open_inbox_file(tmp_path / "var" / FILE_NAME)
    assert file.execute("SELECT body FROM deliveries").fetchone()[0] == body
    file.close()


def test_nothing_of_a_request_is_logged(process):
    child, port = process(LOG_LEVEL="debug")
    for path in ("events", "cdrs"):
        secret = {"X-HMAC-SHA512-Signature": "a-secret-signature", "Authorization": "Bearer a-secret-token"}
        httpx.post(
            f"http://127.0.0.1:{port}/plugsurfing/{path}?a-secret-query", content=b"a-secret-body", headers=secret
        )
    child.terminate()
    child.wait(timeout=10)

    assert "a-secret" not in child.stderr.read()


def test_responses_do_not_name_the_server_software(process):
    _, port = process()
    assert "server" not in httpx.get(f"http://127.0.0.1:{port}/healthz").headers


def test_a_port_that_is_taken_is_one_sentence(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SystemExit, match=rf"Cannot listen on 127\.0\.0\.1 port {port}: Address already in use\.$"):
            serve(load_settings(data_dir=tmp_path, port=port, plugsurfing_hmac_current=KEY))


def test_an_address_of_another_machine_is_one_sentence(tmp_path):
    with pytest.raises(SystemExit, match=r"Cannot listen on 192\.0\.2\.1 port 0: "):
        serve(load_settings(data_dir=tmp_path, host="192.0.2.1", port=0, plugsurfing_hmac_current=KEY))


def test_without_a_key_it_does_not_start(tmp_path):
    with pytest.raises(SettingsError, match="PLUGSURFING_HMAC_CURRENT"):
        serve(load_settings(data_dir=tmp_path / "var"))
    assert not (tmp_path / "var").exists()


def test_a_folder_that_cannot_be_made_is_named(tmp_path, monkeypatch):
    def refuse(*_arguments, **_options):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(SettingsError, match=r"^DATA_DIR cannot be made \(Permission denied\)\.$"):
        serve(load_settings(data_dir=tmp_path / "var", plugsurfing_hmac_current=KEY))


def test_a_folder_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda _path, _mode: False)
    with pytest.raises(SettingsError, match="DATA_DIR cannot be written"):
        serve(load_settings(data_dir=tmp_path, plugsurfing_hmac_current=KEY))


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_it_serves_on_the_configured_address(tmp_path, monkeypatch, eventually, host):
    """In this process, which receives the signal that ends it."""
    try:
        socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
    except OSError:
        pytest.skip("this machine has no such address")
    port = reserve_port()
    monkeypatch.setattr(serve_module, "configure_logging", lambda *_: None)
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    statuses = []

    def request_and_end():
        eventually(lambda: is_at(f"{url}/healthz", statuses))
        os.kill(os.getpid(), signal.SIGTERM)

    requesting = threading.Thread(target=request_and_end)
    requesting.start()
    try:
        with pytest.raises(SystemExit) as ended:
            serve(load_settings(data_dir=tmp_path, host=host, port=port, plugsurfing_hmac_current=KEY))
    finally:
        requesting.join()
        for number, handler in before.items():
            signal.signal(number, handler)

    assert ended.value.code == 0
    assert statuses == [200]


def is_at(url, statuses):
    try:
        statuses.append(httpx.get(url).status_code)
    except httpx.TransportError:
        return False
    return True


@pytest.mark.usefixtures("signals_restored")
def test_a_worker_gets_a_server_with_the_settings_as_they_are_now(tmp_path, monkeypatch):
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    monkeypatch.setenv("PLUGSURFING_HMAC_CURRENT", KEY)
    server = worker_server(1, lambda: None)
    assert isinstance(server, DrainingServer)
    assert asyncio.run(server.on_tick(1)) is True  # process 1 is not our parent
    with pytest.raises(SystemExit) as ended:
        signal.raise_signal(signal.SIGTERM)
    assert ended.value.code == 0


def test_a_worker_with_wrong_settings_ends_with_the_exit_code_for_them(monkeypatch, capsys):
    monkeypatch.setenv("BODY_TIMEOUT", "soon")
    with pytest.raises(SystemExit) as ended:
        worker_server(1, lambda: None)
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("Error: BODY_TIMEOUT ")


def test_workers_are_supervised_on_the_configured_address(tmp_path, monkeypatch):
    supervised = []
    monkeypatch.setattr(serve_module, "run_supervisor", lambda *given: supervised.append(given) or 7)
    settings = load_settings(data_dir=tmp_path, port=reserve_port(), plugsurfing_hmac_current=KEY)
    assert serve_with_workers(settings, 3) == 7
    ((make_server, (listener,), count, folder),) = supervised
    with listener:
        assert (make_server, listener.getsockname()[1], count) == (worker_server, settings.port, 3)
    assert folder == tmp_path
