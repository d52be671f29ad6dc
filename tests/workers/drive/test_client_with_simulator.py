"""The client against the simulator's Drive API over HTTP: nothing is missing, whatever goes wrong on the way."""

import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
import stamina
import uvicorn
from structlog.testing import capture_logs

from ingest.config.settings import load_settings
from ingest.simulator.drive.drive_app import DRIVE_KEY, create_drive
from ingest.simulator.drive.drive_faults import DriveFault, DriveFaults, RequestCounter
from ingest.simulator.drive.state import DriveState, SessionState
from workers.drive.client import DriveClient

AT = datetime(2025, 6, 12, 10, tzinfo=UTC)
USERS = ["../..", "a/b?c=d#e", "ü ñ 漢%2F", "mail@driver.example", "\x00\x7f\r\n", "."]


@pytest.fixture
def state() -> DriveState:
    state = DriveState()
    for user in USERS:
        state.apply(
            SessionState(f"{user}-{number}", user, "COMPLETE", started_at=AT + timedelta(minutes=number))
            for number in range(60)
        )
    return state


@pytest.fixture
def faults() -> DriveFaults:
    return DriveFaults(seed=7)


@pytest.fixture
def counter() -> RequestCounter:
    return RequestCounter()


@pytest.fixture
def client(state, faults, counter, clock) -> Iterator[DriveClient]:
    server = uvicorn.Server(
        uvicorn.Config(
            create_drive(state, faults, counter=counter), port=0, log_config=None, timeout_graceful_shutdown=0
        )
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    end = time.monotonic() + 20
    while not server.started:
        assert time.monotonic() < end, "it did not start"
        time.sleep(0.005)
    url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/drive"
    settings = load_settings(drive_api_url=url, drive_api_key=DRIVE_KEY, drive_attempts=30, drive_patience="1d")
    with DriveClient(settings, None, now=clock.now, monotonic=clock.monotonic, sleep=clock.sleep) as client:
        yield client
    server.should_exit = True
    thread.join()


@pytest.mark.parametrize("user", USERS)
def test_a_user_with_any_id_is_found(client, user):
    assert client.session(user, f"{user}-0").user_id == user
    assert len(list(client.history(user))) == 60


def test_all_sessions_come_whatever_goes_wrong(client, faults, clock):
    faults.rates = dict.fromkeys((DriveFault.THROTTLED, DriveFault.BROKEN, DriveFault.NONSENSE, DriveFault.LOST), 0.2)
    with capture_logs() as logs, stamina.set_testing(testing=True, attempts=30):
        for user in USERS:
            told = [session.session_id for session in client.history(user)]
            assert sorted(told) == sorted(f"{user}-{number}" for number in range(60))
    assert "drive.throttled" in {line["event"] for line in logs}
    assert clock.slept
