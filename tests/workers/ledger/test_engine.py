"""How the ledger is opened: what waits for what."""

import multiprocessing
import sqlite3
from datetime import timedelta

import pytest
from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError, OperationalError

from workers.ledger.engine import chunks, insert_into, open_ledger, reading
from workers.ledger.tables import metadata, sightings

ROW = {"delivery_id": "d1", "inbox": "here", "receipts": 1}


def count(conn):
    return conn.scalar(select(func.count()).select_from(sightings))


def test_no_connection_is_opened_before_it_is_needed(tmp_path):
    open_ledger(f"sqlite:///{tmp_path / 'nowhere' / 'ledger.db'}")
    open_ledger("postgresql+psycopg://nobody@127.0.0.1:1/nowhere")


def test_what_fails_leaves_nothing_behind(ledger):
    with pytest.raises(IntegrityError), ledger.begin() as conn:
        conn.execute(sightings.insert(), [ROW, ROW])
    with reading(ledger.engine) as conn:
        assert count(conn) == 0


def test_an_error_does_not_repeat_what_was_to_be_written(ledger):
    with pytest.raises(IntegrityError) as refused, ledger.begin() as conn:
        conn.execute(sightings.insert(), {**ROW, "inbox": "what nobody may read", "receipts": None})
    assert "what nobody may read" not in str(refused.value).partition("DETAIL")[0]


def test_a_savepoint_takes_back_only_what_came_after_it(ledger):
    with ledger.begin() as conn:
        conn.execute(sightings.insert(), ROW)
        with pytest.raises(IntegrityError), conn.begin_nested():
            conn.execute(sightings.insert(), [{**ROW, "inbox": "there"}, ROW])
    with reading(ledger.engine) as conn:
        assert count(conn) == 1


def test_who_reads_neither_waits_for_a_writer_nor_sees_half_of_its_work(ledger):
    with ledger.begin() as writer:
        writer.execute(sightings.insert(), ROW)
        with reading(ledger.engine) as reader:
            assert count(reader) == 0


def test_insert_knows_what_to_do_about_conflicts(ledger):
    with ledger.begin() as conn:
        for _ in range(2):
            conn.execute(insert_into(conn, sightings).on_conflict_do_nothing(), [ROW])
        assert count(conn) == 1


def test_sqlite_syncs_every_commit_and_lets_readers_read(tmp_path):
    with open_ledger(f"sqlite:///{tmp_path / 'ledger.db'}").connect() as conn:
        assert conn.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert conn.exec_driver_sql("PRAGMA synchronous").scalar() == 2


def test_a_writer_on_sqlite_waits_for_another_one_and_then_gives_up(tmp_path):
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    engine = open_ledger(url)
    metadata.create_all(engine)
    with engine.begin(), pytest.raises(OperationalError) as locked, open_ledger(url, patience=timedelta()).begin():
        pass
    assert isinstance(locked.value.orig, sqlite3.OperationalError)


def test_a_sequence_is_cut_into_pieces():
    assert [list(piece) for piece in chunks(range(5), 2)] == [[0, 1], [2, 3], [4]]
    assert list(chunks([])) == []


def test_a_child_opens_connections_of_its_own(ledger):
    with ledger.begin() as conn:
        conn.execute(sightings.insert(), ROW)
    forking = multiprocessing.get_context("fork")

    def write_and_see():
        with ledger.begin() as conn:
            conn.execute(sightings.insert(), {**ROW, "inbox": "child"})
            assert count(conn) == 2

    child = forking.Process(target=write_and_see)
    child.start()
    child.join()
    assert child.exitcode == 0
    with reading(ledger.engine) as conn:
        assert count(conn) == 2
