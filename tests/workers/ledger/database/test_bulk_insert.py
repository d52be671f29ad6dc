"""Bulk inserts, and columns compared with many values."""

from sqlalchemy import select

from workers.ledger.database.bulk_insert import insert_new, upsert
from workers.ledger.database.conditions import in_list
from workers.ledger.tables.core_tables import receipts

ODD = ['", \\ {}', "NULL", "", "'; --", "ключ \U0001f50c", "\x01\x7f", "a,b", "{x}"]


def rows(*keys, inbox="here", receipts=1):
    return [{"delivery_id": key, "inbox": inbox, "receipts": receipts} for key in keys]


def test_only_new_rows_are_inserted(ledger):
    with ledger.begin() as conn:
        assert insert_new(conn, receipts, rows("a", "b")) == {("a", "here"), ("b", "here")}
        assert insert_new(conn, receipts, rows("b", "c", receipts=9)) == {("c", "here")}
        assert insert_new(conn, receipts, rows("c", inbox="there")) == {("c", "there")}
        assert insert_new(conn, receipts, rows("c")) == set()
        assert insert_new(conn, receipts, []) == set()
        assert conn.scalars(select(receipts.c.receipts).order_by(receipts.c.delivery_id)).all() == [1, 1, 9, 1]


def test_of_rows_with_the_same_key_one_is_inserted(ledger):
    with ledger.begin() as conn:
        assert insert_new(conn, receipts, rows("a", "a")) == {("a", "here")}


def test_rows_replace_those_with_the_same_keys(ledger):
    with ledger.begin() as conn:
        upsert(conn, receipts, rows("a", "b"))
        upsert(conn, receipts, rows("b", "c", receipts=2))
        upsert(conn, receipts, [])
        assert conn.scalars(select(receipts.c.receipts).order_by(receipts.c.delivery_id)).all() == [1, 2, 2]


def test_odd_texts_are_only_texts(ledger):
    with ledger.begin() as conn:
        assert insert_new(conn, receipts, rows(*ODD)) == {(key, "here") for key in ODD}
        assert insert_new(conn, receipts, rows(*ODD)) == set()
        found = conn.scalars(select(receipts.c.delivery_id).where(in_list(receipts.c.delivery_id, ODD[:5])))
        assert set(found) == set(ODD[:5])


def test_a_column_is_compared_with_any_number_of_values(ledger):
    many = [f"k{number}" for number in range(5000)]
    wanted = select(receipts.c.delivery_id).where(in_list(receipts.c.delivery_id, "ids"))
    with ledger.begin() as conn:
        insert_new(conn, receipts, rows(*many))
        assert len(conn.scalars(wanted, {"ids": many}).all()) == 5000
        assert conn.scalars(wanted, {"ids": {"k7", "nothing"}}).all() == ["k7"]
        assert conn.scalars(wanted, {"ids": []}).all() == []
