from datetime import timedelta

import pytest

from workers.ledger import authorizations
from workers.ledger.authorizations import DecisionRow

NAMES = [
    *("id", "at", "form", "decision", "policy", "reason", "latency_ms", "session_id", "reference_id", "location_id"),
    *("country_code", "key", "repeated", "failure"),
]


@pytest.fixture
def asked_node(any_node, noon):
    rows = [
        DecisionRow("d1", noon, "plugsurfing", "ALLOWED", None, None, 4200, session_id="s1", key="04a1b2"),
        DecisionRow(
            "d2", noon + timedelta(hours=1), "ocpi", "BLOCKED", "key_list", "the key is disabled", 900, key="b2a104"
        ),
        DecisionRow(
            "d3", noon + timedelta(hours=2), "ocpi", "ALLOWED", "slow", None, 2_400_000, failure="late", repeated=True
        ),
    ]
    with any_node.engine.begin() as conn:
        authorizations.insert(conn, rows)
    return any_node


def ids(node, *words):
    return [row["id"] for row in node.rows("authorizations", *words)]


def test_decisions_are_listed_newest_first(asked_node):
    rows = asked_node.rows("authorizations")
    assert [row["id"] for row in rows] == ["d3", "d2", "d1"]
    assert all(list(row) == NAMES for row in rows)
    assert (rows[2]["latency_ms"], rows[2]["key"], rows[2]["repeated"]) == (4.2, "04a1b2", False)
    assert rows[2]["at"].endswith("Z")


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["--decision", "BLOCKED"], ["d2"]),
        (["--policy", "slow"], ["d3"]),
        (["--session", "s1"], ["d1"]),
        (["--key", "04:A1:B2"], ["d2", "d1"]),
        (["--limit", "1"], ["d3"]),
    ],
)
def test_decisions_are_found_by_what_they_are_about(asked_node, words, found):
    assert ids(asked_node, *words) == found


def test_decisions_are_found_by_their_time(asked_node, noon):
    since, until = (noon + timedelta(minutes=30)).isoformat(), (noon + timedelta(minutes=90)).isoformat()
    assert ids(asked_node, "--since", since, "--until", until) == ["d2"]


def test_a_person_is_shown_why(asked_node):
    shown = asked_node.run("authorizations").stdout
    assert "the key is disabled" in shown
    assert "failure: late, asked again" in shown
