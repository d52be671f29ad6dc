"""Charging keys and what was decided about them, counted as decisions are stored."""

import time
from datetime import timedelta
from functools import partial
from threading import Thread

import pytest
from sqlalchemy import delete, text

from ingest.config.settings import load_settings
from workers.ledger import authorizations, charging_key_usage, charging_keys
from workers.ledger.authorizations import DecisionRow
from workers.ledger.charging_keys import KeyRow
from workers.ledger.database.engine import create_ledger_engine
from workers.ledger.tables import metadata
from workers.ledger.tables.authorization_tables import authorizations as authorization_table
from workers.ledger.tables.core_tables import sessions
from workers.privacy.erasure import Erasure, erase
from workers.privacy.erasure_targets import ErasureTargets
from workers.privacy.retention import RetentionTask

MINUTE = timedelta(minutes=1)


def decision(name, at, **parts):
    usual = {"form": "plugsurfing", "decision": "ALLOWED", "policy": None, "reason": None, "latency_us": 1}
    return DecisionRow(name, at, **{**usual, **parts})


def test_decisions_are_counted_once_by_key_with_the_driver_of_the_last_session(ledger, noon):
    first = [decision("d1", noon, key="04a1", session_id="s1"), decision("d2", noon + 3 * MINUTE, key="04a2")]
    later = [decision("d3", noon + 2 * MINUTE, key="04a1", session_id="s2", decision="BLOCKED")]
    early = [decision("d4", noon - MINUTE, key="04a1", session_id="s0"), decision("d5", noon)]
    with ledger.begin() as conn:
        conn.execute(sessions.insert().values(session_id="s2", user_id="dana", anomalies=[], facts={}, updated_at=noon))
        charging_keys.replace_all(conn, [KeyRow("04a1", enabled=False)], 1, noon)
        for rows in (first, later, first, early):
            authorizations.insert(conn, rows)
        other, mine = charging_key_usage.find(conn)
        assert (mine.key, mine.asked, mine.decisions) == ("04a1", 3, {"ALLOWED": 2, "BLOCKED": 1})
        assert (mine.first_at, mine.last_at) == (noon - MINUTE, noon + 2 * MINUTE)
        assert (mine.session_id, mine.user_id, mine.is_enabled) == ("s2", "dana", False)
        assert (other.key, other.asked, other.user_id, other.is_enabled) == ("04a2", 1, None, None)
        assert charging_key_usage.find(conn, keys=["04a2"]) == [other]
        assert charging_key_usage.find(conn, limit=1) == [other]
        assert charging_key_usage.find(conn, before=(other.last_at, other.key)) == [mine]
        assert charging_key_usage.find(conn, until=noon + 3 * MINUTE) == [mine]


def test_no_key_is_in_a_representation(ledger, noon):
    with ledger.begin() as conn:
        authorizations.insert(conn, [decision("d1", noon, key="04a1b2")])
        assert "04a1b2" not in repr(charging_key_usage.find(conn))


def retain(engine, at):
    RetentionTask(engine, load_settings(), now=lambda: at, sleep=lambda _: None).delete()


def forget(engine, _at):
    erase(engine, Erasure(), ErasureTargets(keys=frozenset({"k1", "k2"})))


@pytest.mark.parametrize("remove", [retain, forget])
def test_who_removes_keys_locks_them_in_the_order_of_who_counts_them(postgres_url, noon, remove):
    """In another order it waits for k1 with k2 in its hands, and who has k1 and wants k2 waits for it: a deadlock."""
    engine = create_ledger_engine(postgres_url)
    metadata.create_all(engine)
    with engine.begin() as conn:
        for key, age in (("k2", 2), ("k1", 1)):
            authorizations.insert(conn, [decision(key, noon - age * MINUTE, key=key)])
        conn.execute(delete(authorization_table))  # they have no locks of their own here
    removing = Thread(target=remove, args=(engine, noon + timedelta(days=400)))
    count = partial(charging_key_usage.KeyRequest, decision="ALLOWED", at=noon, session_id=None)
    with engine.connect() as conn:
        charging_key_usage.count(conn, [count("k1")])
        removing.start()
        with engine.connect() as other:
            while removing.is_alive() and not other.scalar(text("SELECT count(*) FROM pg_locks WHERE NOT granted")):
                other.rollback()
                time.sleep(0.01)
        conn.execute(text("SET LOCAL lock_timeout = '500ms'"))  # less than PostgreSQL takes to find a deadlock
        charging_key_usage.count(conn, [count("k2")])
        conn.commit()
    removing.join()
    engine.dispose()
