"""The simulated Drive API runs as a process, keeps its sessions, and is controlled over HTTP."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from ingest.config.settings import load_settings
from ingest.simulator.drive.drive_app import DRIVE_KEY
from ingest.simulator.drive.drive_faults import DriveFaults
from ingest.simulator.drive.state import SessionState
from workers.dev.drive_simulator import (
    SimulatorNotRunning,
    default_port,
    fetch_sessions,
    push_sessions,
    set_faults,
    simulate,
    simulated_url,
)
from workers.dev.env_file import write_devfile

STARTED = [SessionState(f"S{number}", "user-1", "STARTED") for number in range(5)]


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], tuple[subprocess.Popen[str], str]]]:
    """Start `webhooks drive simulate` on a free port, and return the process and its URL."""
    monkeypatch.setattr("workers.dev.drive_simulator.SESSIONS_AT_ONCE", 2)
    program = (
        "import uvicorn, workers.dev.drive_simulator as simulator;"
        "from ingest.config.settings import load_settings;"
        "from ingest.simulator.drive.drive_faults import DriveFaults;"
        "simulator.default_port = lambda _: 0;"
        "startup = uvicorn.Server.startup\n"
        "async def started(server, sockets=None):\n"
        "    await startup(server, sockets)\n"
        "    print('port', server.servers[0].sockets[0].getsockname()[1], flush=True)\n"
        "uvicorn.Server.startup = started\n"
        "simulator.simulate(load_settings(), port=None, seed=7, faults=DriveFaults())"
    )
    environment = {**os.environ, "DATA_DIR": str(tmp_path), "DRIVE_API_KEY": "", "LOG_FORMAT": "json"}
    processes: list[subprocess.Popen[str]] = []

    def run() -> tuple[subprocess.Popen[str], str]:
        process = subprocess.Popen(
            [sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        processes.append(process)
        assert process.stdout is not None
        port = next(line.split()[1] for line in process.stdout if line.startswith("port "))
        return process, f"http://127.0.0.1:{port}/drive"

    yield run
    for process in processes:
        process.kill()
        process.communicate()


def test_sessions_survive_a_restart(start):
    process, url = start()
    push_sessions(url, STARTED)
    assert fetch_sessions(url) == STARTED
    response = httpx.get(f"{url}/v1/users/user-1/sessions/S4", headers={"x-api-key": DRIVE_KEY})
    assert response.json()["sessionStatus"] == "STARTED"
    process.send_signal(signal.SIGTERM)
    process.wait(20)
    _, url = start()
    assert fetch_sessions(url) == STARTED


def test_faults_can_be_set(start):
    _, url = start()
    set_faults(url, "500:1")
    location = f"{url}/v1/locations/loc-001"
    assert httpx.get(location, headers={"x-api-key": DRIVE_KEY}).status_code == 500
    set_faults(url, "")
    assert httpx.get(location, headers={"x-api-key": DRIVE_KEY}).status_code == 200


def test_another_server_is_not_a_simulator(start, monkeypatch):
    _, url = start()
    with pytest.raises(SimulatorNotRunning, match="There is no simulated Drive API"):
        set_faults(f"{url}/other", "")
    monkeypatch.setattr("workers.dev.drive_simulator._request", lambda *_: b"not a session\n")
    with pytest.raises(SimulatorNotRunning):
        fetch_sessions(url)


@pytest.mark.parametrize(
    ("url", "port"),
    [
        ("http://127.0.0.1:9005/drive", 9005),
        ("http://127.0.0.1/drive", 8005),
        ("https://drive-api.plugsurfing.com:9005/drive", 8005),
    ],
)
def test_the_port_is_that_of_the_url_if_it_is_on_this_machine(url, port):
    assert default_port(load_settings(drive_api_url=url)) == port


def test_the_simulator_of_dev_is_found_by_its_file(tmp_path):
    settings = load_settings(data_dir=tmp_path, drive_api_url="http://127.0.0.1:9005/drive")
    assert simulated_url(settings) is None
    write_devfile(tmp_path, {"DRIVE_API_URL": "http://127.0.0.1:9005/drive"})
    assert simulated_url(settings) == "http://127.0.0.1:9005/drive"
    write_devfile(tmp_path, {"DRIVE_API_URL": "http://127.0.0.1:9006/drive"})
    assert simulated_url(settings) is None


def test_a_port_that_is_taken_is_a_failure_in_one_sentence(tmp_path):
    with (
        socket.create_server(("127.0.0.1", 0)) as other,
        pytest.raises(SystemExit, match=r"^Cannot listen on .* in use\.$"),
    ):
        simulate(load_settings(data_dir=tmp_path), port=other.getsockname()[1], seed=7, faults=DriveFaults())
