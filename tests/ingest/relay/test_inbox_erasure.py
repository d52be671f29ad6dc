"""An order to erase, found in Redis, is carried out in the inbox file."""

import sqlite3
from contextlib import closing
from datetime import UTC, datetime

import pytest

from ingest.inbox.quarantine import Quarantine
from ingest.inbox.quarantined_request import Authorization, QuarantinedRequest
from ingest.inbox.schema import FILE_NAME, open_inbox_file
from ingest.inbox.write_lock import execute_with_retry
from ingest.queue.erasure_orders import ErasureOrder, ErasureReport, erasure_digest, erasure_reports, publish_orders
from ingest.relay import inbox_erasure
from ingest.relay.inbox_erasure import InboxErasure
from ingest.wire.envelope import Kind

NAME = "jane.roe@example.com"
INSERT = (
    "INSERT INTO deliveries (id, kind, queue, received_at, signed_with, headers, body)"
    " VALUES ('d1', 'events', 'sessions', 0, 'current', '{}', ?)"
)


class Clock:
    def __init__(self):
        self._now = 0.0

    def add(self, seconds):
        self._now += seconds

    def monotonic(self):
        return self._now

    time = monotonic


@pytest.fixture
def path(settings):
    return settings.data_dir / FILE_NAME


@pytest.fixture
def erasure(path, valkey):
    publish_orders(valkey, [ErasureOrder("e1", 0.0, "salt", frozenset({erasure_digest("salt", NAME)}))])
    open_inbox_file(path).close()
    return InboxErasure(path, "here", valkey)


def quarantine(path, settings, *bodies):
    now = datetime.now(UTC)
    requests = [
        QuarantinedRequest(0, Kind.EVENTS, now, "wrong", (), Authorization.NOT_ASKED, body, None, None)
        for body in bodies
    ]
    Quarantine(path, settings).add(requests)


def test_a_quarantined_request_that_names_the_driver_is_deleted(path, settings, valkey, erasure):
    quarantine(path, settings, f'{{"user": "{NAME}"}}'.encode(), b'{"user": "john"}')

    erasure.poll()

    assert [each.body for each in Quarantine(path, settings).list()] == [b'{"user": "john"}']
    assert erasure_reports(valkey, "e1") == {"here": ErasureReport(quarantined=1, is_rewritten=True)}


def test_no_byte_is_left_in_the_file_or_in_its_log(path, settings, erasure):
    with closing(open_inbox_file(path)):  # as `serve` has it open, so that nothing is copied at a close
        quarantine(path, settings, f'{{"user": "{NAME}"}}'.encode())
        with closing(sqlite3.connect(path)) as file:
            file.execute(INSERT, (NAME.encode(),))
            file.execute("DELETE FROM deliveries")
            file.commit()
        assert any(NAME.encode() in each.read_bytes() for each in path.parent.glob("inbox.db*"))

        erasure.poll()

        assert not [each for each in path.parent.glob("inbox.db*") if NAME.encode() in each.read_bytes()]


@pytest.mark.parametrize("settled", [True, False])
def test_only_what_is_in_use_bounds_the_file_that_is_rewritten(path, valkey, erasure, monkeypatch, settled):
    monkeypatch.setattr(inbox_erasure, "LARGEST_REWRITTEN", 1_000_000)
    with closing(sqlite3.connect(path)) as file:
        file.execute(INSERT, (bytes(2_000_000),))
        if settled:
            file.execute("DELETE FROM deliveries")
        file.commit()

    erasure.poll()

    assert erasure_reports(valkey, "e1") == {"here": ErasureReport(is_rewritten=settled)}


def test_an_order_is_open_while_the_file_cannot_be_written(erasure, monkeypatch):
    def refuse(_path):
        raise sqlite3.OperationalError("unable to open database file")

    with monkeypatch.context() as patch:
        patch.setattr(inbox_erasure, "open_for_background_writes", refuse)
        with pytest.raises(sqlite3.OperationalError):
            erasure.poll()
    assert erasure.open_since == 0.0
    monkeypatch.setattr(inbox_erasure, "POLL_EVERY", 0.0)
    erasure.poll()
    assert erasure.open_since is None


def test_an_order_waits_for_what_is_on_its_way(path, valkey, erasure, monkeypatch):
    with closing(sqlite3.connect(path)) as file:
        file.execute(INSERT, (NAME.encode(),))
        file.commit()

    erasure.poll()

    assert erasure_reports(valkey, "e1") == {}
    assert erasure.open_since == 0.0

    with closing(sqlite3.connect(path)) as file:
        file.execute("DELETE FROM deliveries")
        file.commit()
    monkeypatch.setattr(inbox_erasure, "POLL_EVERY", 0.0)
    erasure.poll()
    assert erasure.open_since is None


def test_what_was_carried_out_is_remembered_for_as_long_as_its_order_is_there(path, valkey, erasure, monkeypatch):
    monkeypatch.setattr(inbox_erasure, "POLL_EVERY", 0.0)
    erasure.poll()
    publish_orders(valkey, [ErasureOrder("e2", 1.0, "salt", frozenset({erasure_digest("salt", "another")}))])

    erasure.poll()

    assert erasure_reports(valkey, "e1") == {}
    assert list(erasure_reports(valkey, "e2")) == ["here"]
    with closing(sqlite3.connect(path)) as file:
        assert file.execute("SELECT value FROM meta WHERE name = 'erasures'").fetchone() == ('["e2"]',)


def test_a_long_inbox_is_searched_in_several_polls_and_no_delivery_twice(path, valkey, erasure, monkeypatch):
    monkeypatch.setattr(inbox_erasure, "POLL_EVERY", 0.0)
    clock = Clock()
    monkeypatch.setattr(inbox_erasure, "time", clock)
    searched = []
    monkeypatch.setattr(
        ErasureOrder, "is_in", lambda _self, _headers, body, _session: searched.append(body) or clock.add(0.2)
    )
    bodies = [b"one", b"two", b"three", b"four", b"five"]
    with closing(sqlite3.connect(path)) as file:
        file.executemany(INSERT.replace("'d1'", "?"), [(body.decode(), body) for body in bodies])
        file.commit()

    erasure.poll()

    assert searched == bodies[:3]
    assert erasure_reports(valkey, "e1") == {}
    erasure.poll()
    assert searched == bodies
    assert erasure_reports(valkey, "e1") == {"here": ErasureReport()}


def test_the_file_is_rewritten_once_for_several_orders(path, settings, valkey, erasure, monkeypatch):
    users = ["jane", "john", "jim"]
    orders = [ErasureOrder(user, 0.0, "salt", frozenset({erasure_digest("salt", user)})) for user in users]
    publish_orders(valkey, orders)
    quarantine(path, settings, b"jane", b"john", b"jill")
    rewritten = []
    monkeypatch.setattr(InboxErasure, "_rewrite", lambda _self, file: rewritten.append(file) or True)

    erasure.poll()

    assert len(rewritten) == 1
    assert [each.body for each in Quarantine(path, settings).list()] == [b"jill"]
    assert [erasure_reports(valkey, user)["here"].quarantined for user in users] == [1, 1, 0]


def test_a_file_that_cannot_be_rewritten_is_reported_and_stops_nothing(path, valkey, erasure, monkeypatch):
    def execute(file, statement, *values):
        if statement == "VACUUM":
            raise sqlite3.OperationalError("database or disk is full")
        return execute_with_retry(file, statement, *values)

    monkeypatch.setattr(inbox_erasure, "execute_with_retry", execute)

    erasure.poll()

    assert erasure_reports(valkey, "e1") == {"here": ErasureReport(is_rewritten=False)}


def test_an_order_is_carried_out_once(path, settings, valkey, erasure):
    erasure.poll()
    quarantine(path, settings, NAME.encode())

    InboxErasure(path, "here", valkey).poll()

    assert len(Quarantine(path, settings).list()) == 1
