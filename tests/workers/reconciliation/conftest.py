"""The simulated Drive API and the clock that read it, for one test."""

from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest
import stamina

from ingest.simulator.drive.drive_app import DRIVE_KEY
from tests.workers.reconciliation.clocks import Clock, SimulatedDrive


@pytest.fixture
def simulator(until: Callable[..., None]) -> Iterator[SimulatedDrive]:
    drive = SimulatedDrive()
    drive.thread.start()
    until(lambda: drive.server.started)
    yield drive
    drive.server.should_exit = True
    drive.thread.join()


@pytest.fixture(autouse=True)
def _no_delay_between_attempts() -> Iterator[None]:
    with stamina.set_testing(True, attempts=4, cap=True):
        yield


@pytest.fixture
def clock_on(push_node_on, simulator: SimulatedDrive) -> Callable[..., Clock]:
    def build(
        database_url: str, plugins=None, *, per_minute: int = 10**6, lease: timedelta = timedelta(), **overrides
    ) -> Clock:
        usual = {"drive_api_url": simulator.url, "drive_api_key": DRIVE_KEY, "reconcile_after": "1ms"}
        resources = push_node_on(database_url, plugins, **{**usual, **overrides}).resources
        return Clock(resources, per_minute=per_minute, lease=lease)

    return build


@pytest.fixture
def clock(clock_on, tmp_path) -> Clock:
    return clock_on(f"sqlite:///{tmp_path / 'ledger.db'}", reconcile_after="30m", history_every="1000d")
