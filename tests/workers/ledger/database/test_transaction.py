"""Transactions are retried while the database fails; reads are not."""

import sqlite3

import psycopg
import pytest
import structlog
from psycopg import errors
from sqlalchemy import Column, Integer, MetaData, Table, event, insert, select, text
from sqlalchemy.exc import OperationalError, TimeoutError  # noqa: A004 - SQLAlchemy's, of its pool

from workers.ledger.database.engine import create_ledger_engine
from workers.ledger.database.transaction import (
    LedgerNotMigrated,
    LedgerUnavailable,
    is_transient,
    read_once,
    run_in_transaction,
)
from workers.ledger.tables import metadata
from workers.ledger.tables.core_tables import runs

kept = Table("kept", MetaData(), Column("id", Integer, primary_key=True))


def of_sqlite(code):
    failure = sqlite3.OperationalError()
    failure.sqlite_errorcode = code
    return OperationalError("INSERT", {}, failure)


@pytest.mark.parametrize(
    ("failure", "is_its_own"),
    [
        (of_sqlite(sqlite3.SQLITE_BUSY), True),
        (of_sqlite(sqlite3.SQLITE_IOERR_WRITE), True),
        (of_sqlite(sqlite3.SQLITE_ERROR), False),
        (OperationalError("INSERT", {}, sqlite3.OperationalError("made up by the driver")), False),
        (OperationalError("INSERT", {}, errors.DeadlockDetected()), True),
        (OperationalError("INSERT", {}, errors.ReadOnlySqlTransaction()), True),
        (OperationalError("INSERT", {}, errors.AdminShutdown()), True),
        (OperationalError("INSERT", {}, errors.QueryCanceled()), False),
        (OperationalError("INSERT", {}, errors.ProgramLimitExceeded()), False),
        (OperationalError("INSERT", {}, psycopg.OperationalError("too many parameters")), False),
        (OperationalError("INSERT", {}, psycopg.OperationalError("cut"), connection_invalidated=True), True),
        (OperationalError(None, None, psycopg.OperationalError("refused")), True),
        (TimeoutError(), True),
        (OverflowError(), False),
    ],
)
def test_failures_of_the_database_are_distinguished_from_those_of_a_statement(failure, is_its_own):
    assert is_transient(failure) is is_its_own


def test_a_failed_read_is_raised_without_its_values(database_url):
    engine = create_ledger_engine(database_url, creates_file=True)
    with pytest.raises(LedgerNotMigrated) as raised:
        read_once(engine, lambda conn: conn.scalar(select(runs.c.reason).where(runs.c.reason == "a secret value")))
    assert "a secret value" not in str(raised.value)
    metadata.create_all(engine)
    assert read_once(engine, lambda conn: conn.scalar(select(runs.c.reason))) is None


@pytest.mark.parametrize("act", [read_once, lambda engine, work: run_in_transaction(engine, work, retry_for=0.1)])
def test_an_exhausted_pool_is_an_unavailable_ledger(database_url, act):
    engine = create_ledger_engine(database_url, creates_file=True, pool_size=1, pool_timeout=0.1)
    with engine.connect(), pytest.raises(LedgerUnavailable, match="TimeoutError"):
        act(engine, lambda conn: conn.execute(text("SELECT 1")))
    act(engine, lambda conn: conn.execute(text("SELECT 1")))


def test_a_transaction_is_retried_until_it_commits(ledger):
    kept.create(ledger.engine)
    failures = iter([True, True])

    def fail_at_first(_conn):
        if next(failures, False):
            raise OperationalError("COMMIT", None, OSError())

    event.listen(ledger.engine, "commit", fail_at_first)
    try:
        run_in_transaction(ledger.engine, lambda conn: conn.execute(insert(kept).values(id=1)))
        assert read_once(ledger.engine, lambda conn: list(conn.scalars(select(kept.c.id)))) == [1]
    finally:
        event.remove(ledger.engine, "commit", fail_at_first)
        kept.drop(ledger.engine)


def test_a_command_that_keeps_no_log_says_once_that_it_tries_again(capfd):
    structlog.reset_defaults()
    engine = create_ledger_engine("postgresql+psycopg://somebody:a-secret-word@127.0.0.1:1/x")

    with pytest.raises(LedgerUnavailable):
        run_in_transaction(engine, lambda _ledger: None, retry_for=0.3)

    out, err = capfd.readouterr()
    assert not out
    assert err.splitlines() == ["No answer (OperationalError): it is tried again for a while."]
