"""What the clock reads from the Drive API for policies."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from handlers.kit.testing import DEFAULT_NOW
from ingest.config.settings import load_settings
from workers.drive.errors import DriveUnavailable, NotFound
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
    """A Drive API that says what it is told to."""

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
    """The time that the duties see: the last one in the list."""
    times = [DEFAULT_NOW]
    monkeypatch.setattr(sync, "now", lambda: times[-1])
    return times


@pytest.fixture
def equipment_on(database_url, tmp_path) -> Iterator[Callable[..., Resources]]:
    engine = create_ledger_engine(database_url)
    metadata.create_all(engine)
    yield lambda **settings: Resources(
        load_settings(data_dir=tmp_path, **{**DRIVE, **settings}), Plugins(()), engine, None, {}
    )
    engine.dispose()


def listed(equipment):
    with read_only(equipment.engine) as conn:
        return {row.identifier: row for row, is_there in charging_keys.changed(conn, 0, "", 100) if is_there}


def standing(equipment):
    with read_only(equipment.engine) as conn:
        return sync_state.get(conn, KEYS)


def ask(equipment, key, at):
    with equipment.engine.begin() as conn:
        row = DecisionRow(f"{key}-{at}", at, "ocpi", "NOT_ALLOWED", None, None, 1, key=key)
        authorizations.insert(conn, [row])


def test_the_list_is_read_when_it_is_due_and_not_before(equipment_on, clock):
    equipment, drive = equipment_on(), Drive()
    duty = SyncChargingKeys(equipment, drive)
    drive.keys[None] = [ChargingKey(identifier="04:A1", contract_id="c1", valid_to=DEFAULT_NOW, visual_number="1")]
    duty.run()
    duty.run()
    assert drive.calls == 1
    assert listed(equipment) == {
        "04a1": KeyRow("04a1", enabled=True, valid_to=DEFAULT_NOW, contract_id="c1", visual_number="1")
    }
    assert (standing(equipment).read_at, standing(equipment).rows_read) == (DEFAULT_NOW, 1)
    clock.append(DEFAULT_NOW + timedelta(minutes=5))
    drive.keys[None] = []
    duty.run()
    assert listed(equipment) == {}


def test_the_keys_of_each_fleet_that_is_named_are_read(equipment_on, clock):
    equipment, drive = equipment_on(authorize_fleets="north,south"), Drive()
    drive.keys = {
        "north": [ChargingKey(identifier="01")],
        "south": [ChargingKey(identifier="02", fleet_id="the south")],
    }
    SyncChargingKeys(equipment, drive).run()
    assert {key: row.fleet_id for key, row in listed(equipment).items()} == {"01": "north", "02": "the south"}


def test_a_reading_that_fails_in_the_middle_leaves_the_last_list(equipment_on, clock):
    equipment, drive = equipment_on(), Drive()
    duty = SyncChargingKeys(equipment, drive)
    drive.keys[None] = [ChargingKey(identifier="01"), ChargingKey(identifier="02")]
    duty.run()
    clock.append(DEFAULT_NOW + timedelta(minutes=5))
    drive.keys[None] = [ChargingKey(identifier="01", enabled=False), ChargingKey(identifier="03")]
    drive.breaks_after = 1
    with pytest.raises(DriveUnavailable):
        duty.run()
    assert {key: row.enabled for key, row in listed(equipment).items()} == {"01": True, "02": True}
    assert (standing(equipment).read_at, standing(equipment).failed_at) == (DEFAULT_NOW, clock[-1])
    drive.breaks_after = None
    duty.run()
    assert set(listed(equipment)) == {"01", "02"}
    clock.append(clock[-1] + timedelta(seconds=30))
    duty.run()
    assert {key: row.enabled for key, row in listed(equipment).items()} == {"01": False, "03": True}
    assert standing(equipment).failed_at is None


def test_a_question_about_an_unknown_key_has_the_list_read_early(equipment_on, clock):
    equipment, drive = equipment_on(), Drive()
    duty = SyncChargingKeys(equipment, drive)
    drive.keys[None] = [ChargingKey(identifier="04a1")]
    duty.run()
    ask(equipment, "a104", DEFAULT_NOW + timedelta(seconds=5))
    clock.append(DEFAULT_NOW + timedelta(minutes=1))
    duty.run()
    assert drive.calls == 1
    ask(equipment, "04a2", DEFAULT_NOW + timedelta(seconds=6))
    duty.run()
    assert drive.calls == 2
    clock.append(DEFAULT_NOW + timedelta(minutes=2))
    duty.run()
    assert drive.calls == 2


def two_clocks(equipment, drive, clock, pages, page_takes):
    """A clock whose list comes in pages, slowly, while another clock has a turn after each of them."""
    other = SyncChargingKeys(equipment, other_drive := Drive())
    other_drive.keys[None] = [ChargingKey(identifier="ff")]
    listed = [ChargingKey(identifier=f"0{number}") for number in range(pages)]

    def charging_keys(_fleet_id=None):
        drive.calls += 1
        for key in listed:
            clock.append(clock[-1] + page_takes)
            other.run()
            yield key

    drive.charging_keys = charging_keys
    return SyncChargingKeys(equipment, drive), other_drive


def test_a_list_of_many_slow_pages_is_read_by_one_clock(equipment_on, clock):
    equipment, drive = equipment_on(), Drive()
    duty, other_drive = two_clocks(equipment, drive, clock, pages=9, page_takes=timedelta(seconds=80))
    duty.run()
    assert (drive.calls, other_drive.calls) == (1, 0)
    assert len(listed(equipment)) == 9


def test_a_question_about_an_unknown_key_does_not_have_the_list_read_twice_at_once(equipment_on, clock):
    equipment, drive = equipment_on(), Drive()
    duty, other_drive = two_clocks(equipment, drive, clock, pages=3, page_takes=timedelta(seconds=10))
    SyncChargingKeys(equipment, Drive()).run()
    clock.append(DEFAULT_NOW + timedelta(minutes=2))
    ask(equipment, "04a2", DEFAULT_NOW + timedelta(seconds=6))
    duty.run()
    assert (drive.calls, other_drive.calls) == (1, 0)


def test_whose_lease_is_over_leaves_the_list_to_who_has_it(equipment_on, clock):
    equipment, drive = equipment_on(), Drive()
    duty, other_drive = two_clocks(equipment, drive, clock, pages=2, page_takes=timedelta(minutes=3))
    duty.run()
    assert (drive.calls, other_drive.calls) == (1, 1)
    assert set(listed(equipment)) == {"ff"}
    assert standing(equipment).failed_at is None


def test_where_contracts_are_users_their_balances_are_read_before_anybody_asks(equipment_on, clock):
    equipment, drive = equipment_on(authorize_least_balance="5"), Drive()
    drive.keys[None] = [ChargingKey(identifier="01", contract_id="c1"), ChargingKey(identifier="02", contract_id="c2")]
    drive.balances = {"c1": Decimal("10.00")}
    SyncChargingKeys(equipment, drive).run()
    duty = SyncBalances(equipment, drive)
    duty.run()
    duty.run()
    assert drive.calls == 3
    with read_only(equipment.engine) as conn:
        found = {one.user_id: one.amount for one in balances.read_since(conn, DEFAULT_NOW - timedelta(1))}
    assert found == {"c1": Decimal("10.00"), "c2": None}


def test_a_balance_that_cannot_be_read_stays_what_it_was_and_is_tried_again(equipment_on, monkeypatch):
    times = [datetime.now(UTC)]
    monkeypatch.setattr(sync, "now", lambda: times[-1])
    equipment, drive = equipment_on(), Drive()
    drive.balances = {"user1": Decimal("10.00")}
    duty = SyncBalances(equipment, drive)
    with equipment.engine.begin() as conn:
        balances.request(conn, ["user1"], times[0], older_than=timedelta(minutes=5))
    duty.run()
    times.append(times[0] + timedelta(minutes=6))
    drive.breaks_after, drive.balances = 0, {"user1": Decimal("7.50")}
    with pytest.raises(DriveUnavailable):
        duty.run()
    duty.run()

    def amounts():
        with read_only(equipment.engine) as conn:
            return [one.amount for one in balances.read_since(conn, times[0])]

    assert amounts() == [Decimal("10.00")]
    drive.breaks_after = None
    times.append(times[-1] + timedelta(seconds=30))
    duty.run()
    assert amounts() == [Decimal("7.50")]


def test_no_more_balances_are_read_than_are_allowed(equipment_on, clock):
    equipment, drive = equipment_on(authorize_balances_a_minute=6), Drive()
    with equipment.engine.begin() as conn:
        balances.request(conn, [f"u{number}" for number in range(20)], DEFAULT_NOW, older_than=timedelta())
    SyncBalances(equipment, drive).run()
    assert drive.calls == 1


def test_nothing_is_read_without_policies_or_without_a_key_of_the_drive_api(equipment_on):
    equipment = equipment_on(authorize_key_list=True)
    assert sync_tasks(equipment) == []
    asked = replace(equipment, plugins=load_plugins(equipment.settings))
    assert [duty.name for duty in sync_tasks(asked)] == ["keys", "balances"]
    without = replace(asked, settings=load_settings(data_dir=equipment.settings.data_dir))
    assert sync_tasks(without) == []
