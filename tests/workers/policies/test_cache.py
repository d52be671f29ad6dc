"""The in-memory copy of the ledger for policies."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from structlog.testing import capture_logs

from handlers.kit.policies import BalanceSnapshot
from handlers.kit.session import DriverAssignment, Session, StatusTimes
from ingest.config.settings import Settings, load_settings
from tests.own_time import now
from workers.ledger import authorizations, balances, charging_keys, sessions, sync_state
from workers.ledger.authorizations import DecisionRow
from workers.ledger.balances import Balance
from workers.ledger.charging_keys import KeyRow
from workers.ledger.database.engine import create_ledger_engine
from workers.policies.cache import KEYS, PolicyCache


@pytest.fixture
def settings(tmp_path) -> Settings:
    return load_settings(data_dir=tmp_path, authorize_one_session=True)


@pytest.fixture
def cache(ledger, settings) -> PolicyCache:
    return PolicyCache(ledger, settings)


def list_keys(ledger, *rows, at=None):
    at = at or now()
    with ledger.begin() as conn:
        sync_state.claim(conn, KEYS, at, timedelta())
        charging_keys.replace_all(conn, rows, sync_state.begin_generation(conn, KEYS), at)
        sync_state.mark_complete(conn, KEYS, at, at, len(rows))


def event(status: str, user_id: str | None = None) -> Callable[[Session], Session]:
    users = {user_id: DriverAssignment(now(), "event")} if user_id else {}
    return lambda known: Session(known.session_id, {status: StatusTimes(now(), now(), frozenset({"event"}))}, users)


def test_nothing_is_known_before_the_first_refresh(cache):
    assert cache.keys_synced_at() is None
    assert cache.sessions_read_at() is None
    assert cache.charging_key("04a1") is None


def test_keys_are_found_in_any_spelling_until_they_are_removed(ledger, cache):
    cache.refresh()
    assert cache.keys_synced_at() is None
    list_keys(ledger, KeyRow("04a1", enabled=True, contract_id="c1"), KeyRow("04a2", enabled=True))
    cache.refresh()
    for spelling in ("04A1", "a1:04"):
        found = cache.charging_key(spelling)
        assert (found.identifier, found.contract_id, found.read_at) == ("04a1", "c1", now())
    later = now() + timedelta(minutes=5)
    list_keys(ledger, KeyRow("04a2", enabled=False), at=later)
    cache.refresh()
    assert cache.charging_key("04a1") is None
    assert not cache.charging_key("04a2").enabled
    assert cache.keys_synced_at() == later


def test_a_key_is_found_by_the_number_on_its_card(ledger, cache):
    old = KeyRow("04a1", enabled=False, visual_number="8PS-1")
    list_keys(ledger, old, KeyRow("04a0", enabled=True, visual_number="8PS-1"), KeyRow("04a2", enabled=True))
    cache.refresh()
    assert cache.charging_key_by_number("8PS-1").identifier == "04a0"
    assert cache.charging_key_by_number("04a2") is None
    list_keys(ledger, old)
    cache.refresh()
    assert cache.charging_key_by_number("8PS-1").identifier == "04a1"


def test_a_long_list_is_copied_in_pages(ledger, cache, monkeypatch):
    monkeypatch.setattr("workers.policies.cache.PAGE_SIZE", 3)
    list_keys(ledger, *(KeyRow(f"{number:04x}", enabled=True) for number in range(10)))
    cache.refresh()
    assert all(cache.charging_key(f"{number:04x}") for number in range(10))


def test_a_requested_balance_is_known_once_it_was_read(ledger, cache):
    assert cache.balance("user1") is None
    cache.refresh()
    at = datetime.now(UTC)  # with its microseconds: the balance was requested in this second
    with ledger.begin() as conn:
        assert balances.claim(conn, at, timedelta(minutes=1), limit=10) == ["user1"]
        balances.mark_read(conn, [Balance("user1", Decimal("7.10"), at)], every=timedelta(1), otherwise=timedelta(1))
    cache.refresh()
    assert cache.balance("user1") == BalanceSnapshot(Decimal("7.10"), at)
    with ledger.begin() as conn:
        balances.mark_read(conn, [Balance("user1", None, at)], every=timedelta(1), otherwise=timedelta(1))
    cache.refresh()
    assert cache.balance("user1") is None


def test_open_sessions_are_found_by_key_and_by_user(ledger, cache):
    with ledger.begin() as conn:
        row = DecisionRow("d1", now(), "ocpi", "ALLOWED", None, None, 1, session_id="s1", key="04a1")
        authorizations.insert(conn, [row])
        charging_keys.record_session_keys(conn, {"s2": "04a1"}, now())
        changes = {"s1": event("STARTED"), "s2": event("STARTED", "user1"), "s3": event("STARTED", "user1")}
        sessions.merge(conn, changes)
    cache.refresh()
    assert cache.open_sessions("A104", None) == {"s1", "s2"}
    assert cache.open_sessions(None, "user1") == {"s2", "s3"}
    assert cache.open_sessions("04a1", "user1") == {"s1", "s2", "s3"}
    assert cache.open_sessions("04a2", "user2") == set()
    with ledger.begin() as conn:
        sessions.merge(conn, {"s2": event("STOP_FAILED"), "s4": event("WAITING_TO_START", "user1")})
    cache.refresh()
    assert cache.open_sessions("04a1", "user1") == {"s1", "s3"}
    with ledger.begin() as conn:
        sessions.merge(conn, {"s1": event("STOPPED")})
    cache.refresh()
    assert cache.open_sessions("04a1", None) == set()


def test_the_key_of_a_session_may_become_known_later(ledger, cache, monkeypatch):
    monkeypatch.setattr("workers.policies.cache.LOOKUP_EVERY", timedelta())
    with ledger.begin() as conn:
        sessions.merge(conn, {"s1": event("STARTED")})
    cache.refresh()
    assert cache.open_sessions("04a1") == set()
    with ledger.begin() as conn:
        charging_keys.record_session_keys(conn, {"s1": "04a1"}, now())
    cache.refresh()
    assert cache.open_sessions("04a1") == {"s1"}


def test_open_sessions_are_copied_only_after_the_first_call(ledger, tmp_path):
    cache = PolicyCache(ledger, load_settings(data_dir=tmp_path))
    cache.refresh()
    assert cache.sessions_read_at() is None
    cache.open_sessions("04a1")
    cache.refresh()
    assert cache.sessions_read_at() is not None


def test_an_unavailable_ledger_neither_blocks_nor_raises(tmp_path, settings):
    cache = PolicyCache(create_ledger_engine("postgresql+psycopg://nobody@127.0.0.1:1/nowhere"), settings)
    cache.start(timedelta(seconds=20))
    assert cache.charging_key("04a1") is None
    cache.stop()


def test_the_thread_refreshes_the_copy(ledger, cache, monkeypatch, until):
    monkeypatch.setattr("workers.policies.cache.REFRESH_EVERY", timedelta(milliseconds=10))
    cache.start(timedelta(seconds=20))
    list_keys(ledger, KeyRow("04a1", enabled=True))
    until(lambda: cache.charging_key("04a1"))
    cache.stop()


def test_the_thread_survives_what_it_cannot_read(ledger, cache, monkeypatch, until):
    def fail():
        raise ValueError("04a1 is in no text of a log")

    monkeypatch.setattr("workers.policies.cache.REFRESH_EVERY", timedelta(milliseconds=10))
    list_keys(ledger, KeyRow("04a1", enabled=True))
    with capture_logs() as logs, monkeypatch.context() as patch:
        patch.setattr(cache, "refresh", fail)
        cache.start(timedelta(seconds=20))
    until(lambda: cache.charging_key("04a1"))
    cache.stop()
    assert [line["event"] for line in logs] == ["policy_cache.stale"]
    assert "04a1" not in str(logs)
