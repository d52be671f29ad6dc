"""A simulated Drive API without a server, and sessions for it."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from starlette.testclient import TestClient

from ingest.simulator.drive.drive_app import DRIVE_KEY, create_drive
from ingest.simulator.drive.state import DriveState, SessionState

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
HEADERS = {"x-api-key": DRIVE_KEY}


@pytest.fixture
def make_session() -> Callable[..., SessionState]:
    def make(number: int, status: str = "COMPLETE", **fields: Any) -> SessionState:
        start = NOON + timedelta(minutes=number)
        return SessionState(f"s{number:03}", "user-1", status, **{"started_at": start, "ended_at": start, **fields})

    return make


@pytest.fixture
def state() -> DriveState:
    return DriveState(seed=7)


@pytest.fixture
def drive_of(state: DriveState) -> Callable[..., httpx.Client]:
    return lambda *parts, **named: TestClient(create_drive(state, *parts, **named), headers=HEADERS)


@pytest.fixture
def drive(drive_of: Callable[..., httpx.Client]) -> httpx.Client:
    return drive_of()
