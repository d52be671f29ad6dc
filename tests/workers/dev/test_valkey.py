"""The embedded Valkey: at a socket of its own, with an append-only file."""

import asyncio
import os
import socket
import stat
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from ingest.errors import SettingsError
from workers.dev import valkey as module
from workers.dev.child_process import ChildProcess, ProcessSpec
from workers.dev.valkey import MAX_SOCKET_PATH, is_answering, server_binary, socket_path, valkey


@pytest.fixture
def path() -> Iterator[Path]:
    """A path that is short enough for a socket."""
    with tempfile.TemporaryDirectory(prefix="valkey-", dir="/tmp") as folder:
        yield Path(folder) / "socket"


@pytest.fixture
def run() -> Iterator[Callable[[ProcessSpec], subprocess.Popen]]:
    servers: list[subprocess.Popen] = []

    def start(spec: ProcessSpec) -> subprocess.Popen:
        servers.append(subprocess.Popen(spec.command))
        while not spec.is_ready():
            assert servers[-1].poll() is None
            time.sleep(0.01)
        return servers[-1]

    yield start
    for server in servers:
        server.kill()
        server.wait()


def connect(path: Path) -> redis.Redis:
    return redis.Redis(unix_socket_path=str(path), decode_responses=True)


def test_the_server_is_a_program_of_the_wheel():
    assert server_binary().stat().st_mode & stat.S_IXUSR


def test_it_is_ready_when_it_answers_and_not_before(path, tmp_path, run):
    spec = valkey(path, tmp_path / "valkey")
    assert not spec.is_ready()
    run(spec)
    assert spec.is_ready()


def test_it_listens_at_its_socket_alone_and_logs_every_write(path, tmp_path, run):
    run(valkey(path, tmp_path))
    with connect(path) as connection:
        assert connection.config_get("port")["port"] == "0"
        assert connection.config_get("append*")["appendonly"] == "yes"
        assert connection.config_get("append*")["appendfsync"] == "everysec"
        assert connection.config_get("maxmemory-policy")["maxmemory-policy"] == "noeviction"
    assert stat.S_IMODE(path.stat().st_mode) == 0o700


def test_its_data_is_there_after_a_restart(path, tmp_path, run):
    spec = valkey(path, tmp_path)
    server = run(spec)
    with connect(path) as connection:
        connection.set("kept", "yes")
    server.terminate()
    assert server.wait(timeout=10) == 0
    run(spec)
    with connect(path) as connection:
        assert connection.get("kept") == "yes"


def test_a_killed_server_does_not_prevent_its_restart(path, tmp_path, run):
    spec = valkey(path, tmp_path)
    server = run(spec)
    server.kill()
    server.wait()
    assert path.exists()
    assert not spec.is_ready()
    run(spec)
    assert spec.is_ready()


def test_it_prints_nothing_but_its_log_has_the_reason_why_it_does_not_start(tmp_path):
    printed: list[str] = []
    nowhere = tmp_path / "missing" / "socket"

    async def start() -> str:
        child = ChildProcess(valkey(nowhere, tmp_path), {}, lambda _, line: printed.append(line))
        while not child.ended.done():
            await asyncio.sleep(0.01)
            child.poll()
        return child.last_line

    assert "Failed opening Unix socket" in asyncio.run(start())
    assert printed == []


def test_a_server_that_is_still_loading_is_not_ready():
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(64)
                connection.sendall(b"-LOADING Valkey is loading the dataset in memory\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        assert not is_answering(server.getsockname()[1])
        thread.join()


def test_its_folder_is_made(path, tmp_path):
    valkey(path, tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()


def test_the_socket_is_in_the_folder_unless_its_path_is_too_long(path, tmp_path, monkeypatch):
    assert socket_path(path.parent) == path.parent.resolve() / "valkey.sock"
    monkeypatch.setattr(tempfile, "tempdir", str(path.parent))
    long = tmp_path / ("a" * MAX_SOCKET_PATH)
    found = socket_path(long)
    assert found == socket_path(long)
    assert found.parent.parent == path.parent
    assert stat.S_IMODE(found.parent.stat().st_mode) == 0o700


@pytest.mark.parametrize("name", ["a b", "a=b"])
def test_a_path_that_redis_py_cannot_parse_is_no_socket(path, monkeypatch, name):
    monkeypatch.setattr(tempfile, "tempdir", str(path.parent))
    assert socket_path(path.parent / name).parent.parent == path.parent
    (path.parent / name).mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(path.parent / name))
    with pytest.raises(SettingsError, match="DATA_DIR and TMPDIR"):
        socket_path(path.parent / name)


def test_a_temporary_folder_of_another_user_is_refused(path, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(path.parent))
    monkeypatch.setattr(module.os, "getuid", lambda: os.geteuid() + 1)
    with pytest.raises(SettingsError, match="belongs to another user"):
        socket_path(tmp_path / ("a" * MAX_SOCKET_PATH))
