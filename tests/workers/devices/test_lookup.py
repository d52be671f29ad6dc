"""How many devices of a driver are reached, whoever knows them."""

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import create_engine
from structlog.testing import capture_logs

from handlers.kit.channel import Device, DeviceRegistryPlugin
from ingest.config.settings import load_settings
from workers.devices.lookup import Devices
from workers.ledger import devices
from workers.ledger.tables import metadata

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
FLEET = [Device(f"token-{number:03}") for number in range(60)]


@pytest.fixture(params=["the ledger", "a plugin"])
def lookup(request, tmp_path):
    """Find the devices of a user with sixty."""
    engine = create_engine(f"sqlite:///{tmp_path / 'ledger.db'}")
    if request.param == "a plugin":
        plugin = DeviceRegistryPlugin(lambda _user_id: iter(FLEET))
        yield lambda limit: Devices(engine, plugin, limit)("fleet")
    else:
        metadata.create_all(engine)
        with engine.begin() as conn:
            for age, device in enumerate(FLEET):
                devices.upsert(conn, "fleet", device, NOON - timedelta(minutes=age))
        yield lambda limit: Devices(engine, None, limit)("fleet")
    engine.dispose()


def test_all_devices_of_a_fleet_are_reached(lookup):
    with capture_logs() as logged:
        assert lookup(load_settings().devices_per_user) == FLEET
    assert logged == []


def test_the_latest_are_reached_where_there_are_more_than_the_limit_and_that_is_logged(lookup):
    with capture_logs() as logged:
        assert lookup(50) == FLEET[:50]
    assert [(each["event"], each["limit"]) for each in logged] == [("devices.skipped", 50)]
