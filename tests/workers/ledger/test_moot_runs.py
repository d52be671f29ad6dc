"""The moot runs of late: grouped by handler and reason, bounded in time and in what is read."""

from datetime import timedelta

import pytest

from workers.ledger import moot_runs
from workers.ledger.moot_runs import group_moot_runs
from workers.ledger.runs import RunRecord, insert_runs
from workers.ledger.states import WHOLE_DELIVERY, Outcome


@pytest.fixture
def ended(ledger, noon):
    """Insert runs that have ended, each with a minute, and return their groups."""

    def ended(*rows):
        ids = [f"d{number}" for number in range(len(rows))]
        ledger.store(*map(ledger.delivery, ids))
        records = [
            RunRecord(
                delivery_id=id_,
                handler=handler,
                outcome=outcome,
                reason=reason,
                finished_at=noon + timedelta(minutes=minute),
            )
            for id_, (handler, outcome, reason, minute) in zip(ids, rows, strict=True)
        ]
        with ledger.begin() as conn:
            insert_runs(conn, records, "sessions")
            return [
                (each.handler, each.reason, each.count, each.last_at, each.delivery_id, each.is_cut)
                for each in group_moot_runs(conn, noon + timedelta(hours=24))
            ]

    return ended


def test_they_are_grouped_by_handler_and_by_what_is_before_the_colon(ended, noon):
    found = ended(
        ("warn", Outcome.MOOT, "too late: by 3 s", 1),
        ("warn", Outcome.MOOT, "too late: by 4 s", 2),
        ("warn", Outcome.MOOT, "the session is over", 3),
        ("warn", Outcome.DONE, None, 4),
        ("warn", Outcome.DEAD, "too late: but dead", 5),
        ("count", Outcome.MOOT, None, 4),
        ("warn", Outcome.MOOT, "a day before", -1),
        (WHOLE_DELIVERY, Outcome.IGNORED, "no handler", 9),
    )
    minutes = [noon + timedelta(minutes=minute) for minute in (4, 3, 2)]
    assert found == [
        ("count", "unknown", 1, minutes[0], "d5", False),
        ("warn", "the session is over", 1, minutes[1], "d2", False),
        ("warn", "too late", 2, minutes[2], "d1", False),
    ]


def test_of_more_runs_the_newest_are_read_and_that_is_said(ended, noon, monkeypatch):
    monkeypatch.setattr(moot_runs, "MAX_READ", 3)
    found = ended(
        ("warn", Outcome.MOOT, "early", 1),
        ("warn", Outcome.MOOT, "over", 2),
        ("warn", Outcome.DONE, None, 3),
        ("warn", Outcome.MOOT, "over", 4),
    )
    assert found == [("warn", "over", 2, noon + timedelta(minutes=4), "d3", True)]


def test_groups_are_bounded(ended, monkeypatch):
    monkeypatch.setattr(moot_runs, "MAX_GROUPS", 2)
    found = ended(*(("warn", Outcome.MOOT, f"reason {number}", number) for number in range(1, 5)))
    assert [each[1] for each in found] == ["reason 4", "reason 3"]
