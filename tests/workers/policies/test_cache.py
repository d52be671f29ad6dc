"""The copy of the ledger that policies are asked with."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from handlers.kit.policies import BalanceSnapshot
from handlers.kit.session import DriverAssignment, Session, StatusTimes
from ingest.config.settings import Settings, load_settings
from workers.ledger import authorizations, balances, charging_keys, sessions, sync_state
from workers.ledger.authorizations import DecisionRow
from workers.ledger.balances import Balance
from workers.ledger.charging_keys import KeyRow
from workers.ledger.database.engine import create_ledger_engine
from workers.policies.cache import KEYS, PolicyCache

NOW = datetime.now(UTC)


@pytest.fixture
def settings(tmp_path) -> Settings:
    return load_settings(data_dir=tmp_path, authorize_one_session=True)


@pytest.fixture
def facts(ledger, settings) -> PolicyCache:
    return PolicyCache(ledger, settings)


def list_keys(ledger, *rows, at=NOW):
    with ledger.begin() as conn:
        sync_state.claim(conn, KEYS, at, timedelta())
        charging_keys.replace_all(conn, rows, sync_state.begin_generation(conn, KEYS), at)
        sync_state.mark_complete(conn, KEYS, at, at, len(rows))


def says(status: str, user_id: str | None = None) -> Callable[[Session], Session]:
    users = {user_id: DriverAssignment(NOW, "event")} if user_id else {}
    return lambda known: Session(known.session_id, {status: StatusTimes(NOW, NOW, frozenset({"event"}))}, users)


def test_nothing_is_known_before_the_first_look(facts):
    assert facts.keys_synced_at() is None
    assert facts.sessions_read_at() is None
    assert facts.charging_key("04a1") is None


def test_keys_are_found_however_they_are_spelt_and_until_they_are_gone(ledger, facts):
    facts.refresh()
    assert facts.keys_synced_at() is None
    list_keys(ledger, KeyRow("04a1", enabled=True, contract_id="c1"), KeyRow("04a2", enabled=True))
    facts.refresh()
    for asked in ("04A1", "a1:04"):
        found = facts.charging_key(asked)
        assert (found.identifier, found.contract_id, found.read_at) == ("04a1", "c1", NOW)
    later = NOW + timedelta(minutes=5)
    list_keys(ledger, KeyRow("04a2", enabled=False), at=later)
    facts.refresh()
    assert facts.charging_key("04a1") is None
    assert not facts.charging_key("04a2").enabled
    assert facts.keys_synced_at() == later


def test_a_long_list_is_copied_page_by_page(ledger, facts, monkeypatch):
    monkeypatch.setattr("workers.policies.cache.PAGE_SIZE", 3)
    list_keys(ledger, *(KeyRow(f"{number:04x}", enabled=True) for number in range(10)))
    facts.refresh()
    assert all(facts.charging_key(f"{number:04x}") for number in range(10))


def test_a_balance_that_was_asked_for_is_wanted_and_known_once_it_was_read(ledger, facts):
    assert facts.balance("user1") is None
    facts.refresh()
    now = datetime.now(UTC)  # not that of the import: a look goes back for a moment only
    with ledger.begin() as conn:
        assert balances.claim(conn, now, timedelta(minutes=1), limit=10) == ["user1"]
        balances.mark_read(conn, [Balance("user1", Decimal("7.10"), now)], every=timedelta(1), otherwise=timedelta(1))
    facts.refresh()
    assert facts.balance("user1") == BalanceSnapshot(Decimal("7.10"), now)
    with ledger.begin() as conn:
        balances.mark_read(conn, [Balance("user1", None, now)], every=timedelta(1), otherwise=timedelta(1))
    facts.refresh()
    assert facts.balance("user1") is None


def test_open_sessions_are_named_by_key_and_by_user(ledger, facts):
    with ledger.begin() as conn:
        asked = DecisionRow("d1", NOW, "ocpi", "ALLOWED", None, None, 1, session_id="s1", key="04a1")
        authorizations.insert(conn, [asked])
        charging_keys.record_session_keys(conn, {"s2": "04a1"}, NOW)
        told = {"s1": says("STARTED"), "s2": says("STARTED", "user1"), "s3": says("STARTED", "user1")}
        sessions.merge(conn, told)
    facts.refresh()
    assert facts.open_sessions("A104", None) == {"s1", "s2"}
    assert facts.open_sessions(None, "user1") == {"s2", "s3"}
    assert facts.open_sessions("04a1", "user1") == {"s1", "s2", "s3"}
    assert facts.open_sessions("04a2", "user2") == set()
    with ledger.begin() as conn:
        sessions.merge(conn, {"s1": says("STOPPED")})
    facts.refresh()
    assert facts.open_sessions("04a1", None) == {"s2"}


def test_the_key_of_a_session_may_become_known_later(ledger, facts, monkeypatch):
    monkeypatch.setattr("workers.policies.cache.LOOKUP_EVERY", timedelta())
    with ledger.begin() as conn:
        sessions.merge(conn, {"s1": says("STARTED")})
    facts.refresh()
    assert facts.open_sessions("04a1") == set()
    with ledger.begin() as conn:
        charging_keys.record_session_keys(conn, {"s1": "04a1"}, NOW)
    facts.refresh()
    assert facts.open_sessions("04a1") == {"s1"}


def test_sessions_are_looked_through_only_once_somebody_asks(ledger, tmp_path):
    facts = PolicyCache(ledger, load_settings(data_dir=tmp_path))
    facts.refresh()
    assert facts.sessions_read_at() is None
    facts.open_sessions("04a1")
    facts.refresh()
    assert facts.sessions_read_at() is not None


def test_while_the_ledger_is_away_what_was_known_is_known(tmp_path, settings):
    facts = PolicyCache(create_ledger_engine("postgresql+psycopg://nobody@127.0.0.1:1/nowhere"), settings)
    facts.start(timedelta(seconds=20))
    assert facts.charging_key("04a1") is None
    facts.stop()


def test_the_copy_is_kept_fresh_by_itself(ledger, facts, monkeypatch, until):
    monkeypatch.setattr("workers.policies.cache.REFRESH_EVERY", timedelta(milliseconds=10))
    facts.start(timedelta(seconds=20))
    list_keys(ledger, KeyRow("04a1", enabled=True))
    until(lambda: facts.charging_key("04a1"))
    facts.stop()
