import contextlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from ingest.inbox.downtime import list_downtimes, record_downtime
from ingest.inbox.schema import FILE_NAME, inbox_id, open_inbox_file
from workers.ledger.downtimes import BackfillWindow, import_new, release

NOON = datetime(2026, 5, 4, 12, 0, tzinfo=UTC).timestamp()


@pytest.fixture
def inbox_on():
    """Make the inbox of a node, which was closed twice; its id."""

    def make(node):
        with contextlib.closing(open_inbox_file(node.folder / FILE_NAME)) as file:
            record_downtime(file, closed_at=NOON, opened_at=NOON + 90)
            record_downtime(file, closed_at=NOON + 3600, opened_at=NOON + 3607.5)
            return inbox_id(file)

    return make


@pytest.fixture
def inbox(node, inbox_on):
    return inbox_on(node)


def test_gaps_are_listed_newest_first(node, inbox):
    rows = node.rows("deliveries", "--gaps")
    assert [(row["closed_at"], row["opened_at"], row["seconds"]) for row in rows] == [
        ("2026-05-04T13:00:00Z", "2026-05-04T13:00:07.500000Z", 7.5),
        ("2026-05-04T12:00:00Z", "2026-05-04T12:01:30Z", 90.0),
    ]
    assert {row["inbox"] for row in rows} == {inbox}
    assert list(rows[0]) == ["inbox", "closed_at", "opened_at", "seconds", "covered_at", "sessions_read"]


def test_what_the_ledger_knows_of_them_stands_beside_them(any_node, inbox_on):
    inbox_on(any_node)
    with contextlib.closing(open_inbox_file(any_node.folder / FILE_NAME)) as file:
        here = list_downtimes(file, inbox_id(file))
    elsewhere = replace(here[0], inbox="another-node", closed_at=here[0].closed_at + timedelta(minutes=1))
    noticed_at = here[0].opened_at
    window = BackfillWindow(elsewhere.inbox, elsewhere.closed_at, elsewhere.opened_at, noticed_at, None)
    with any_node.engine.begin() as conn:
        import_new(conn, [here[0], elsewhere], noticed_at)
        release(conn, window, elsewhere.opened_at)
    assert [(row["inbox"], row["covered_at"]) for row in any_node.rows("deliveries", "--gaps")] == [
        (here[1].inbox, None),
        ("another-node", "2026-05-04T12:01:30Z"),
        (here[0].inbox, None),
    ]
    shown = any_node.run("deliveries", "--gaps").stdout.splitlines()
    assert [line.partition("  ")[2].strip().rpartition("  ")[2] for line in shown[1:]] == [
        "not known to the ledger yet",
        "0 sessions",
        "not yet",
    ]


@pytest.mark.parametrize(
    ("bounds", "count"),
    [
        (["--since", "2026-05-04T12:01:00Z"], 2),
        (["--since", "2026-05-04T12:02:00Z"], 1),
        (["--until", "2026-05-04T12:00:01Z"], 1),
        (["--until", "2026-05-04T12:00:00Z"], 0),
        (["--limit", "1"], 1),
    ],
)
def test_a_gap_counts_if_any_of_it_lies_in_the_time_asked_for(node, inbox, bounds, count):
    assert len(node.rows("deliveries", "--gaps", *bounds)) == count


def test_a_person_sees_how_long_each_was(node, inbox):
    shown = node.run("deliveries", "--gaps").stdout
    assert "7.5 s" in shown
    assert "90 s" in shown or "2 min" in shown


def test_a_node_without_gaps_says_so(node):
    assert node.run("deliveries", "--gaps").stdout == "No gaps.\n"
