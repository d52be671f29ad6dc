import contextlib
from datetime import UTC, datetime

import pytest

from ingest.gaps import note_gap
from ingest.inboxfile import FILE_NAME, inbox_id, open_inbox_file

NOON = datetime(2026, 5, 4, 12, 0, tzinfo=UTC).timestamp()


@pytest.fixture
def inbox(node):
    """An inbox that was closed twice; its id."""
    with contextlib.closing(open_inbox_file(node.folder / FILE_NAME)) as file:
        note_gap(file, closed_at=NOON, opened_at=NOON + 90)
        note_gap(file, closed_at=NOON + 3600, opened_at=NOON + 3607.5)
        return inbox_id(file)


def test_gaps_are_listed_newest_first(node, inbox):
    assert node.rows("deliveries", "--gaps") == [
        {
            "inbox": inbox,
            "closed_at": "2026-05-04T13:00:00Z",
            "opened_at": "2026-05-04T13:00:07.500000Z",
            "seconds": 7.5,
        },
        {"inbox": inbox, "closed_at": "2026-05-04T12:00:00Z", "opened_at": "2026-05-04T12:01:30Z", "seconds": 90.0},
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
