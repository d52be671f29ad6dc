"""The audit log: acts are recorded once, found by who and when, and never name a driver."""

import os
from datetime import timedelta

import pytest

from workers.ledger import audit_log
from workers.ledger.audit_log import Actor, AuditAct, AuditEntry

MINUTE = timedelta(minutes=1)
ALICE, BOB = Actor("alice", "203.0.113.7"), Actor("bob", "a-machine")


@pytest.fixture
def conn(ledger, noon):
    with ledger.begin() as conn:
        audit_log.record(conn, AuditEntry(AuditAct.LOGGED_IN, ALICE, id="1"), noon)
        audit_log.record(conn, AuditEntry(AuditAct.BODY_VIEWED, BOB, "d1", id="2"), noon + MINUTE)
        audit_log.record(conn, AuditEntry(AuditAct.REPLAYED, ALICE, "state=dead", 133, id="3"), noon + 2 * MINUTE)
        yield conn


def ids(conn, **filters):
    return [row.id for row in audit_log.find(conn, **filters)]


def test_acts_are_found_by_who_what_and_when_the_latest_first(conn, noon):
    assert ids(conn) == ["3", "2", "1"]
    assert ids(conn, actor="alice") == ["3", "1"]
    assert ids(conn, act=AuditAct.BODY_VIEWED) == ["2"]
    assert ids(conn, since=noon + MINUTE, until=noon + 2 * MINUTE) == ["2"]
    assert ids(conn, limit=1) == ["3"]


def test_the_next_page_begins_after_the_last_row(conn, noon):
    audit_log.record(conn, AuditEntry(AuditAct.RESOLVED, BOB, id="0"), noon + MINUTE)
    last = audit_log.find(conn, limit=2)[-1]
    assert last.id == "2"
    assert ids(conn, before=(last.at, last.id)) == ["0", "1"]


def test_an_entry_recorded_again_is_one_act_with_the_new_count(conn, noon):
    entry = AuditEntry(AuditAct.REPLAYED, BOB, "state=dead", 200)
    audit_log.record(conn, entry, noon + 3 * MINUTE)
    audit_log.record(conn, entry.counting(333), noon + 4 * MINUTE)
    latest, before, *_ = audit_log.find(conn)
    assert (latest.count, latest.at, before.id) == (333, noon + 3 * MINUTE, "3")


def test_what_a_person_typed_is_stored_whatever_is_in_it(conn, noon):
    audit_log.record(conn, AuditEntry(AuditAct.LOGIN_FAILED, Actor("a\x00\ud800b", "::1")), noon + 3 * MINUTE)
    assert "\x00" not in audit_log.find(conn, limit=1)[0].actor


def test_the_person_behind_sudo_is_named_but_only_to_root(monkeypatch):
    monkeypatch.setenv("SUDO_USER", "alice")
    monkeypatch.setattr(os, "getuid", lambda: 0)
    assert Actor.of_command().name == "alice (as root)"
    monkeypatch.setattr(os, "getuid", lambda: 987_654)
    assert Actor.of_command().name == "uid 987654"
