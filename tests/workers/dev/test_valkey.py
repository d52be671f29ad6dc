import asyncio
import socket
import stat
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from workers.dev.child_process import ChildProcess, ProcessSpec
from workers.dev.valkey import is_answering, server_binary, valkey


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def run() -> Iterator[Callable[[ProcessSpec], subprocess.Popen]]:
    servers: list[subprocess.Popen] = []

    def start(child: ProcessSpec) -> subprocess.Popen:
        servers.append(subprocess.Popen(child.command))
        while not child.is_ready():
            assert servers[-1].poll() is None
            time.sleep(0.01)
        return servers[-1]

    yield start
    for server in servers:
        server.kill()
        server.wait()


def test_the_server_is_a_program_of_the_wheel():
    assert server_binary().stat().st_mode & stat.S_IXUSR


def test_it_is_ready_when_it_answers_and_not_before(port, tmp_path, run):
    child = valkey(port, tmp_path / "valkey")
    assert not child.is_ready()
    run(child)
    assert child.is_ready()


def test_it_listens_to_this_machine_alone_and_logs_every_write(port, tmp_path, run):
    run(valkey(port, tmp_path))
    with redis.Redis(port=port, decode_responses=True) as connection:
        assert connection.config_get("bind")["bind"] == "127.0.0.1"
        assert connection.config_get("append*")["appendonly"] == "yes"
        assert connection.config_get("append*")["appendfsync"] == "everysec"
        assert connection.config_get("maxmemory-policy")["maxmemory-policy"] == "noeviction"


def test_what_it_was_told_is_there_after_a_restart(port, tmp_path, run):
    child = valkey(port, tmp_path)
    server = run(child)
    with redis.Redis(port=port) as connection:
        connection.set("kept", "yes")
    server.terminate()
    assert server.wait(timeout=10) == 0
    run(child)
    with redis.Redis(port=port) as connection:
        assert connection.get("kept") == b"yes"


def test_it_prints_nothing_but_its_log_says_why_it_does_not_start(tmp_path):
    said: list[str] = []

    async def start(port: int) -> str:
        life = ChildProcess(valkey(port, tmp_path), {}, lambda _, line: said.append(line))
        while not life.ended.done():
            await asyncio.sleep(0.01)
            life.look()
        return life.last_line

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"Failed listening on port {port}" in asyncio.run(start(port))
    assert said == []


def test_a_server_that_is_still_loading_is_not_ready(port):
    with socket.create_server(("127.0.0.1", port)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(64)
                connection.sendall(b"-LOADING Valkey is loading the dataset in memory\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        assert not is_answering(port)
        thread.join()


def test_its_folder_is_made(port, tmp_path):
    valkey(port, tmp_path / "a" / "b")
    assert Path(tmp_path / "a" / "b").is_dir()
