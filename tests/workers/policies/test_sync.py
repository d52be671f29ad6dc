"""Periodic tasks that copy charging keys and balances from the Drive API."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from handlers.kit.testing import DEFAULT_NOW
from ingest.config.settings import load_settings
from workers.drive.drive_errors import DriveUnavailable, NotFound
from workers.drive.models import ChargingKey
from workers.ledger import authorizations, balances, charging_keys, sync_state
from workers.ledger.authorizations import DecisionRow
from workers.ledger.charging_keys import KeyRow
from workers.ledger.database.engine import create_ledger_engine, read_only
from workers.ledger.tables import metadata
from workers.plugins import Plugins, load_plugins
from workers.policies import sync
from workers.policies.cache import KEYS
from workers.policies.sync import SyncBalances, SyncChargingKeys, sync_tasks
from workers.resources import Resources

DRIVE = {"drive_api_key": "a-key", "drive_balance_path": "/v1/users/{user_id}/balance"}


class Drive:
    """A Drive API with the keys and balances of a test."""

    def __init__(self) -> None:
        self.keys: dict[str | None, list[ChargingKey]] = {None: []}
        self.balances: dict[str, Decimal] = {}
        self.breaks_after: int | None = None
        self.calls = 0

    def charging_keys(self, fleet_id: str | None = None) -> Iterator[ChargingKey]:
        self.calls += 1
        for number, key in enumerate(self.keys[fleet_id]):
            if number == self.breaks_after:
                raise DriveUnavailable("The Drive API answered 503.")
            yield key

    def balance(self, user_id: str) -> Decimal:
        self.calls += 1
        if self.breaks_after is not None:
            raise DriveUnavailable("The Drive API answered 503.")
        if user_id not in self.balances:
            raise NotFound("The Drive API does not know it.")
        return self.balances[user_id]


@pytest.fixture
def clock(monkeypatch) -> list[datetime]:
    """The time of the tasks: the last one in the list."""
    times = [DEFAULT_NOW]
    monkeypatch.setattr(sync, "utc_now", lambda: times[-1])
    return times


@pytest.fixture
def resources_on(database_url, tmp_path) -> Iterator[Callable[..., Resources]]:
    engine = create_ledger_engine(database_url, creates_file=True)
    metadata.create_all(engine)
    yield lambda **settings: Resources(
        load_settings(data_dir=tmp_path, **{**DRIVE, **settings}), Plugins(()), engine, None, {}
    )
    engine.dispose()


def listed(resources):
    with read_only(resources.engine) as conn:
        return {row.identifier: row for row, is_listed in charging_keys.changed(conn, 0, "", 100) if is_listed}


def state(resources):
    with read_only(resources.engine) as conn:
        return sync_state.get(conn, KEYS)


def record_request(resources, key, at):
    with resources.engine.begin() as conn:
        row = DecisionRow(f"{key}-{at}", at, "ocpi", "NOT_ALLOWED", None, None, 1, key=key)
        authorizations.insert(conn, [row])


def test_the_list_is_read_when_it_is_due_and_not_before(resources_on, clock):
    resources, drive = resources_on(), Drive()
    task = SyncChargingKeys(resources, drive)
    drive.keys[None] = [ChargingKey(identifier="04:A1", contract_id="c1", valid_to=DEFAULT_NOW, visual_number="1")]
    task.run()
    task.run()
    assert drive.calls == 1
    assert listed(resources) == {
        "04a1": KeyRow("04a1", enabled=True, valid_to=DEFAULT_NOW, contract_id="c1", visual_number="1")
    }
    assert (state(resources).read_at, state(resources).rows_read) == (DEFAULT_NOW, 1)
    clock.append(DEFAULT_NOW + timedelta(minutes=5))
    drive.keys[None] = []
    task.run()
    assert listed(resources) == {}


def test_the_keys_of_each_fleet_are_read(resources_on, clock):
    resources, drive = resources_on(authorize_fleets="north,south"), Drive()
    drive.keys = {
        "north": [ChargingKey(identifier="01")],
        "south": [ChargingKey(identifier="02", fleet_id="the south")],
    }
    SyncChargingKeys(resources, drive).run()
    assert {key: row.fleet_id for key, row in listed(resources).items()} == {"01": "north", "02": "the south"}


def test_a_read_that_fails_midway_leaves_the_last_list(resources_on, clock):
    resources, drive = resources_on(), Drive()
    task = SyncChargingKeys(resources, drive)
    drive.keys[None] = [ChargingKey(identifier="01"), ChargingKey(identifier="02")]
    task.run()
    clock.append(DEFAULT_NOW + timedelta(minutes=5))
    drive.keys[None] = [ChargingKey(identifier="01", enabled=False), ChargingKey(identifier="03")]
    drive.breaks_after = 1
    with pytest.raises(DriveUnavailable):
        task.run()
    assert {key: row.enabled for key, row in listed(resources).items()} == {"01": True, "02": True}
    assert (state(resources).read_at, state(resources).failed_at) == (DEFAULT_NOW, clock[-1])
    drive.breaks_after = None
    task.run()
    assert set(listed(resources)) == {"01", "02"}
    clock.append(clock[-1] + timedelta(seconds=30))
    task.run()
    assert {key: row.enabled for key, row in listed(resources).items()} == {"01": False, "03": True}
    assert state(resources).failed_at is None


def test_a_request_with_an_unknown_key_makes_the_list_due_early(resources_on, clock):
    resources, drive = resources_on(), Drive()
    task = SyncChargingKeys(resources, drive)
    drive.keys[None] = [ChargingKey(identifier="04a1")]
    task.run()
    record_request(resources, "a104", DEFAULT_NOW + timedelta(seconds=5))
    clock.append(DEFAULT_NOW + timedelta(minutes=1))
    task.run()
    assert drive.calls == 1
    record_request(resources, "04a2", DEFAULT_NOW + timedelta(seconds=6))
    task.run()
    assert drive.calls == 2
    clock.append(DEFAULT_NOW + timedelta(minutes=2))
    task.run()
    assert drive.calls == 2


def two_clocks(resources, drive, clock, pages, page_takes):
    """A task whose list comes in slow pages, while another clock runs after each of them."""
    other = SyncChargingKeys(resources, other_drive := Drive())
    other_drive.keys[None] = [ChargingKey(identifier="ff")]
    listed = [ChargingKey(identifier=f"0{number}") for number in range(pages)]

    def charging_keys(_fleet_id=None):
        drive.calls += 1
        for key in listed:
            clock.append(clock[-1] + page_takes)
            other.run()
            yield key

    drive.charging_keys = charging_keys
    return SyncChargingKeys(resources, drive), other_drive


def test_a_list_of_many_slow_pages_is_read_by_one_clock(resources_on, clock):
    resources, drive = resources_on(), Drive()
    task, other_drive = two_clocks(resources, drive, clock, pages=9, page_takes=timedelta(seconds=80))
    task.run()
    assert (drive.calls, other_drive.calls) == (1, 0)
    assert len(listed(resources)) == 9


def test_a_request_with_an_unknown_key_does_not_interrupt_a_read_in_progress(resources_on, clock):
    resources, drive = resources_on(), Drive()
    task, other_drive = two_clocks(resources, drive, clock, pages=3, page_takes=timedelta(seconds=10))
    SyncChargingKeys(resources, Drive()).run()
    clock.append(DEFAULT_NOW + timedelta(minutes=2))
    record_request(resources, "04a2", DEFAULT_NOW + timedelta(seconds=6))
    task.run()
    assert (drive.calls, other_drive.calls) == (1, 0)


def test_a_clock_that_lost_its_lease_leaves_the_list_to_the_new_holder(resources_on, clock):
    resources, drive = resources_on(), Drive()
    task, other_drive = two_clocks(resources, drive, clock, pages=2, page_takes=timedelta(minutes=3))
    task.run()
    assert (drive.calls, other_drive.calls) == (1, 1)
    assert set(listed(resources)) == {"ff"}
    assert state(resources).failed_at is None


def test_balances_of_contracts_are_read_before_the_first_request(resources_on, clock):
    resources, drive = resources_on(authorize_least_balance="5"), Drive()
    drive.keys[None] = [ChargingKey(identifier="01", contract_id="c1"), ChargingKey(identifier="02", contract_id="c2")]
    drive.balances = {"c1": Decimal("10.00")}
    SyncChargingKeys(resources, drive).run()
    task = SyncBalances(resources, drive)
    task.run()
    task.run()
    assert drive.calls == 3
    with read_only(resources.engine) as conn:
        found = {one.user_id: one.amount for one in balances.read_since(conn, DEFAULT_NOW - timedelta(1))}
    assert found == {"c1": Decimal("10.00"), "c2": None}


def test_a_balance_that_cannot_be_read_stays_and_is_tried_again(resources_on, monkeypatch):
    times = [datetime.now(UTC)]
    monkeypatch.setattr(sync, "utc_now", lambda: times[-1])
    resources, drive = resources_on(), Drive()
    drive.balances = {"user1": Decimal("10.00")}
    task = SyncBalances(resources, drive)
    with resources.engine.begin() as conn:
        balances.request(conn, ["user1"], times[0], older_than=timedelta(minutes=5))
    task.run()
    times.append(times[0] + timedelta(minutes=6))
    drive.breaks_after, drive.balances = 0, {"user1": Decimal("7.50")}
    with pytest.raises(DriveUnavailable):
        task.run()
    task.run()

    def amounts():
        with read_only(resources.engine) as conn:
            return [one.amount for one in balances.read_since(conn, times[0])]

    assert amounts() == [Decimal("10.00")]
    drive.breaks_after = None
    times.append(times[-1] + timedelta(seconds=30))
    task.run()
    assert amounts() == [Decimal("7.50")]


def test_no_more_balances_are_read_than_the_setting_allows(resources_on, clock):
    resources, drive = resources_on(authorize_balances_a_minute=6), Drive()
    with resources.engine.begin() as conn:
        balances.request(conn, [f"u{number}" for number in range(20)], DEFAULT_NOW, older_than=timedelta())
    SyncBalances(resources, drive).run()
    assert drive.calls == 1


def test_nothing_is_read_without_policies_or_without_a_key_of_the_drive_api(resources_on):
    resources = resources_on(authorize_key_list=True)
    assert sync_tasks(resources) == []
    with_policies = replace(resources, plugins=load_plugins(resources.settings))
    assert [task.name for task in sync_tasks(with_policies)] == ["keys", "balances"]
    without = replace(with_policies, settings=load_settings(data_dir=resources.settings.data_dir))
    assert sync_tasks(without) == []
