"""The log of a ledger on SQLite is emptied although there is always somebody who reads."""

import threading
from contextlib import ExitStack, contextmanager

import pytest
from sqlalchemy import text

from workers.clock import ledger_checkpoint
from workers.clock.ledger_checkpoint import LedgerCheckpointTask
from workers.ledger.database.engine import create_ledger_engine, read_only
from workers.ledger.transaction_monitor import wal_size

LOG_KEPT = 1 << 20


@pytest.fixture
def ledger(tmp_path, monkeypatch):
    monkeypatch.setattr(ledger_checkpoint, "LOG_KEPT", LOG_KEPT)
    engine = create_ledger_engine(f"sqlite:///{tmp_path / 'ledger.db'}", creates_file=True)
    with engine.begin() as conn:
        conn.execute(text("CREATE TABLE kept (body BLOB)"))
    yield engine
    engine.dispose()


def write(engine):
    with engine.begin() as conn:
        conn.execute(text("INSERT INTO kept VALUES (randomblob(100000))"))


def begin_to_read(stack, engine):
    stack.enter_context(read_only(engine)).execute(text("SELECT count(*) FROM kept")).scalar()


@contextmanager
def overlapping_readers(engine):
    """Read all the time, from another thread: a reader ends only after the next one has begun."""
    ended = threading.Event()

    def read():
        with ExitStack() as stack:
            begin_to_read(stack, engine)
            while not ended.is_set():
                following = ExitStack()
                begin_to_read(following, engine)
                stack.close()
                stack.push(following.pop_all())

    thread = threading.Thread(target=read)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def test_the_log_is_emptied_beside_readers_that_overlap(ledger):
    with overlapping_readers(ledger):
        while wal_size(ledger) <= 8 * LOG_KEPT:  # there are many checkpoints meanwhile, and none empties it
            write(ledger)

        LedgerCheckpointTask(ledger).run()

        assert wal_size(ledger) == 0


def test_a_reader_that_lasts_keeps_the_log_and_nobody_waits_long(ledger, monkeypatch):
    monkeypatch.setattr(ledger_checkpoint, "READERS_END_WITHIN", ledger_checkpoint.READERS_END_WITHIN / 100)
    with ExitStack() as reader:
        begin_to_read(reader, ledger)
        while (size := wal_size(ledger)) <= LOG_KEPT:
            write(ledger)

        LedgerCheckpointTask(ledger).run()

        assert wal_size(ledger) == size
        write(ledger)


def test_a_log_that_is_small_is_left_alone(ledger):
    write(ledger)
    size = wal_size(ledger)

    LedgerCheckpointTask(ledger).run()

    assert wal_size(ledger) == size > 0
