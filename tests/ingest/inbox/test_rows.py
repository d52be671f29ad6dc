import threading
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.inbox.rows import MAX_ROWS_PER_INSERT, Row, fitting_group, insert_new, open_for_inserts, row_of, upsert_rows
from ingest.inbox.schema import FILE_NAME
from ingest.wire.envelope import Envelope, Kind

STARTED = b'{"event": "SESSION_STARTED", "payload": {"sessionId": "L60XMxWy0oP", "timestamp": "2025-06-12T10:56:51Z"}}'
AT = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def file(tmp_path):
    connection = open_for_inserts(tmp_path / FILE_NAME)
    yield connection
    connection.close()


def row(number, at=1.0):
    return Row(f"{number:032x}", "events", "sessions", "SESSION_STARTED", None, at, "current", None, "{}", b"{}")


def keep(file, *rows):
    file.execute("BEGIN IMMEDIATE")
    kept = upsert_rows(file, rows)
    file.execute("COMMIT")
    return [one.duplicate for one in kept]


def count(file, where="TRUE"):
    return file.execute(f"SELECT count(*) FROM deliveries WHERE {where}").fetchone()[0]


def receipts(file):
    counted = "SELECT id, coalesce(receipts, 1) FROM deliveries LEFT JOIN seen USING (id) WHERE body IS NOT NULL"
    return dict(file.execute(counted).fetchall())


def test_a_row_says_what_the_envelope_and_its_body_say():
    signed_at = datetime(2025, 6, 12, 10, 56, 51, tzinfo=UTC)
    envelope = Envelope(Kind.EVENTS, STARTED, AT, "next", signed_at, {"content-type": "application/json"})

    assert row_of(envelope) == Row(
        id=envelope.id,
        kind="events",
        queue="sessions",
        event="SESSION_STARTED",
        session_id="L60XMxWy0oP",
        received_at=AT.timestamp(),
        signed_with="next",
        signed_at=signed_at.timestamp(),
        headers='{"content-type":"application/json"}',
        body=STARTED,
    )


def test_a_body_without_known_fields_has_a_row_too():
    made = row_of(Envelope(Kind.EVENTS, b"\xff\x00", AT, "current", None, {"user-agent": "\N{SNOWMAN}"}))

    assert (made.queue, made.event, made.session_id, made.signed_at) == ("other", None, None, None)


def test_rows_are_inserted_in_the_order_of_arrival(file):
    keep(file, row(3), row(1))
    keep(file, row(2))

    found = [int(id_, 16) for (id_,) in file.execute("SELECT id FROM deliveries ORDER BY seq")]
    assert found == [3, 1, 2]


def test_an_empty_group_inserts_nothing(file):
    assert keep(file) == []


@pytest.mark.parametrize(
    "number", [1, MAX_ROWS_PER_INSERT - 1, MAX_ROWS_PER_INSERT, MAX_ROWS_PER_INSERT + 1, 3 * MAX_ROWS_PER_INSERT + 7]
)
def test_a_group_of_any_size_is_inserted_whole(file, number):
    assert keep(file, *map(row, range(number))) == [False] * number
    assert count(file) == number
    assert set(receipts(file).values()) == {1}


def test_a_duplicate_is_reported_and_counted_and_has_one_waiting_notice(file):
    assert keep(file, row(1)) == [False]
    assert keep(file, row(1, at=2.0)) == [True]
    assert keep(file, row(1, at=3.0), row(1, at=4.0)) == [True, True]

    assert receipts(file) == {f"{1:032x}": 4}
    assert count(file) == 2
    assert count(file, "body IS NULL AND queue = 'other' AND headers = '{}' AND received_at = 2.0") == 1


def test_a_notice_in_flight_is_followed_by_another(file):
    keep(file, row(1), row(1, at=2.0))
    file.execute("UPDATE deliveries SET batch = 'b'")
    keep(file, row(1, at=3.0))

    assert count(file, "body IS NULL") == 2


def test_a_delivery_that_is_settled_is_still_known(file):
    file.execute("INSERT INTO seen (id, first_at) VALUES (?, 1.0)", (row(1).id,))

    assert insert_new(file, [row(2), row(1)]) is None
    assert keep(file, row(1, at=2.0)) == [True]
    assert keep(file, row(2), row(1, at=2.0), row(3)) == [False, True, False]
    assert count(file, "body IS NOT NULL") == 2
    assert file.execute("SELECT id, receipts, first_at FROM seen").fetchall() == [(row(1).id, 3, 1.0)]


def test_an_insert_waits_while_another_connection_writes(file, tmp_path):
    other = open_for_inserts(tmp_path / FILE_NAME)
    other.execute("BEGIN IMMEDIATE")
    inserting = threading.Thread(target=insert_new, args=(file, [row(1)]))
    inserting.start()
    time.sleep(0.02)
    assert inserting.is_alive()
    other.execute("COMMIT")
    inserting.join(10)
    other.close()
    assert count(file) == 1


def test_a_single_statement_inserts_all_or_nothing(file):
    assert [one.duplicate for one in insert_new(file, [row(1), row(2)])] == [False, False]
    assert insert_new(file, [row(3), row(2), row(4)]) is None
    assert insert_new(file, [row(5), row(5)]) is None
    assert insert_new(file, []) is None
    assert insert_new(file, [*map(row, range(100, 101 + MAX_ROWS_PER_INSERT))]) is None
    assert count(file) == len(receipts(file)) == 2
    assert len(insert_new(file, [*map(row, range(100, 100 + 2 * MAX_ROWS_PER_INSERT))])) == 2 * MAX_ROWS_PER_INSERT
    assert not file.in_transaction


@pytest.mark.parametrize(("count", "together"), [(1, 1), (64, 64), (65, 64), (127, 64), (128, 128), (1000, 960)])
def test_a_group_has_a_size_for_which_there_is_a_statement(count, together):
    assert fitting_group(count) == together


def test_the_first_duplicate_of_an_unsettled_delivery_is_remembered_now_not_when_it_was_received(file):
    keep(file, row(1, at=1.0), row(1, at=2.0))

    (first_at,) = file.execute("SELECT first_at FROM seen").fetchone()
    assert abs(first_at - time.time()) < 5


def test_a_group_with_duplicates_inserts_its_new_rows(file):
    keep(file, row(1))

    assert keep(file, row(2), row(1, at=2.0), row(2, at=3.0), row(3)) == [False, True, True, False]
    assert count(file, "body IS NOT NULL") == 3


@given(groups=st.lists(st.lists(st.integers(0, 6), max_size=8), max_size=6))
def test_however_receipts_are_grouped_only_the_first_is_new(groups):
    file = open_for_inserts(Path(":memory:"))
    known: Counter[int] = Counter()
    at = 0.0
    for group in groups:
        rows, expected = [], []
        for number in group:
            at += 1
            rows.append(row(number, at))
            expected.append(known[number] > 0)
            known[number] += 1
        assert keep(file, *rows) == expected
    assert receipts(file) == {f"{number:032x}": times for number, times in known.items()}
    assert count(file, "body IS NOT NULL") == len(known)
    assert count(file, "body IS NULL") == sum(times > 1 for times in known.values())
    file.close()
