import contextlib
from datetime import UTC, datetime

import pytest

from ingest.inbox.recovery import recover
from ingest.inbox.rows import open_for_inserts, row_of, upsert_rows
from ingest.inbox.schema import FILE_NAME, open_inbox_file
from ingest.wire.envelope import Envelope, Kind

COUNT = 400
BODIES = [b'{"event": "SESSION_STARTED", "payload": {"number": %d}}' % number for number in range(COUNT)]


@pytest.fixture
def damaged(tmp_path):
    """A file with deliveries, all in the file itself and none in its log."""
    path = tmp_path / "damaged.db"
    at = datetime(2026, 5, 4, tzinfo=UTC)
    with contextlib.closing(open_for_inserts(path)) as file:
        rows = [row_of(Envelope(Kind.EVENTS, body, at, "current", at, {"user-agent": "x"})) for body in BODIES]
        upsert_rows(file, rows)
        file.execute("UPDATE deliveries SET batch = 'b' WHERE seq < 100")
        file.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return path


@pytest.fixture
def path(tmp_path):
    return tmp_path / FILE_NAME


def pages_of(path, name):
    """The numbers of the pages of a table or index, its root first."""
    with contextlib.closing(open_inbox_file(path)) as file:
        (root,) = file.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (name,)).fetchone()
        (count,) = file.execute("PRAGMA page_count").fetchone()
    raw = path.read_bytes()
    leaves = [number for number in range(1, count + 1) if number != root and raw[(number - 1) * 4096] == 0x0D]
    return root, leaves


def spoil(path, page):
    with path.open("r+b") as file:
        file.seek((page - 1) * 4096)
        file.write(b"spoilt" * 600)


def kept(path):
    with contextlib.closing(open_inbox_file(path)) as file:
        return file.execute("SELECT id, body, signed_with, headers, batch FROM deliveries ORDER BY seq").fetchall()


def test_every_delivery_is_recovered_if_only_an_index_is_corrupt(damaged, path):
    spoil(damaged, pages_of(damaged, "deliveries_offered")[0])
    assert recover(damaged, path) == COUNT
    assert [row[1] for row in kept(path)] == BODIES
    assert {row[2:] for row in kept(path)} == {("current", '{"user-agent":"x"}', None)}


def test_rows_before_and_after_a_corrupt_page_are_recovered(damaged, path):
    whole = kept(damaged)
    _root, leaves = pages_of(damaged, "deliveries")
    spoil(damaged, leaves[len(leaves) // 2])
    count = recover(damaged, path)
    assert 0.8 * COUNT < count < COUNT
    bodies = {row[1] for row in kept(path)}
    assert len(bodies) == count
    assert {BODIES[0], BODIES[-1]} <= bodies <= {row[1] for row in whole}


def test_a_row_whose_body_does_not_match_its_id_is_skipped(damaged, path):
    damaged.write_bytes(damaged.read_bytes().replace(b'"number": 7}', b'"number": 8}'))
    assert recover(damaged, path) == COUNT - 1


def test_nothing_is_recovered_from_a_file_that_is_not_a_database(tmp_path, path):
    (tmp_path / "damaged.db").write_bytes(b"spoilt" * 1000)
    assert recover(tmp_path / "damaged.db", path) == 0
    assert kept(path) == []


def test_a_row_is_built_anew_whatever_its_other_columns_contain(damaged, path):
    with contextlib.closing(open_inbox_file(damaged)) as file:
        file.execute(
            "UPDATE deliveries SET headers = '{torn', queue = 'torn', session_id = 'torn', signed_with = x'00',"
            " received_at = 'torn' WHERE seq = 5"
        )
        file.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    assert recover(damaged, path) == COUNT
    with contextlib.closing(open_inbox_file(path)) as file:
        rows = file.execute("SELECT DISTINCT queue, session_id, signed_with, typeof(received_at) FROM deliveries")
        assert rows.fetchall() == [("sessions", None, "current", "real")]
        assert file.execute("SELECT count(*) FROM deliveries WHERE NOT json_valid(headers)").fetchone() == (0,)


def test_rows_that_were_recovered_before_are_skipped(damaged, path):
    assert (recover(damaged, path), recover(damaged, path)) == (COUNT, 0)
    with contextlib.closing(open_inbox_file(path)) as file:
        assert file.execute("SELECT count(*) FROM seen").fetchone() == (0,)
        assert file.execute("SELECT count(*) FROM deliveries").fetchone() == (COUNT,)


def test_headers_that_cannot_be_encoded_are_omitted(damaged, path):
    with contextlib.closing(open_inbox_file(damaged)) as file:
        file.execute("""UPDATE deliveries SET headers = '{"user-agent": "\\ud800"}' WHERE seq = 5""")
    assert recover(damaged, path) == COUNT
