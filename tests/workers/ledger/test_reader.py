"""What handlers read: sessions, their own statements, and devices, whose lookup may fail."""

import pytest
from sqlalchemy import select
from structlog.testing import capture_logs

from handlers.kit.channel import Device
from workers.ledger import sessions
from workers.ledger.reader import HandlerReader
from workers.ledger.tables.core_tables import sessions as session_table
from workers.resilience.guarded_call import HandlerTimedOut


def reader_with(ledger, devices_of=lambda _user_id: ()):
    return HandlerReader(ledger.engine, devices_of)


def test_a_session_and_the_rows_of_a_statement_are_read(ledger, says):
    reader = reader_with(ledger)
    assert reader.session("s1") is None
    with ledger.begin() as conn:
        sessions.merge(conn, {"s1": says("STARTED")})
    assert reader.session("s1").status == "STARTED"
    assert [tuple(row) for row in reader.read(select(session_table.c.session_id))] == [("s1",)]


def test_devices_are_those_of_the_lookup(sqlite_ledger):
    assert reader_with(sqlite_ledger, lambda user_id: [Device(user_id)]).devices("u1") == [Device("u1")]


def test_a_failed_lookup_is_logged_without_its_user_and_finds_no_device(sqlite_ledger):
    def fail(user_id):
        raise KeyError(user_id)

    with capture_logs() as logged:
        assert reader_with(sqlite_ledger, fail).devices("u1") == ()
    assert logged == [{"event": "devices.lookup_failed", "reason": "KeyError", "log_level": "warning"}]


def test_a_lookup_that_is_timed_out_ends_the_handler(sqlite_ledger):
    def hang(_user_id):
        raise HandlerTimedOut("too long")

    with pytest.raises(HandlerTimedOut):
        reader_with(sqlite_ledger, hang).devices("u1")
