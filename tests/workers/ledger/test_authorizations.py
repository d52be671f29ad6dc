"""Decisions on authorization requests, as the ledger stores and finds them."""

from datetime import timedelta

from workers.ledger import authorizations
from workers.ledger.authorizations import DecisionFilter, DecisionRow


def decision(name, at, **parts):
    usual = {"form": "plugsurfing", "decision": "ALLOWED", "policy": None, "reason": None, "latency_us": 4200}
    return DecisionRow(name, at, **{**usual, **parts})


def test_decisions_are_found_by_what_they_are_about_newest_first(ledger, noon):
    rows = [
        decision("d1", noon, key="04a1", session_id="s1", country_code="DE", repeated=True),
        decision("d2", noon + timedelta(minutes=1), decision="BLOCKED", policy="key_list", reason="disabled"),
        decision("d3", noon + timedelta(minutes=2), key="04a2", failure="late", reference_id="r", location_id="l"),
    ]
    with ledger.begin() as conn:
        authorizations.insert(conn, rows)
        authorizations.insert(conn, rows)
        assert authorizations.find(conn, DecisionFilter()) == rows[::-1]

        def names(limit=None, **wanted):
            return [row.id for row in authorizations.find(conn, DecisionFilter(**wanted), limit)]

        assert names(limit=2) == ["d3", "d2"]
        assert names(since=noon + timedelta(minutes=1), until=noon + timedelta(minutes=2)) == ["d2"]
        assert names(decision="BLOCKED") == names(policy="key_list") == ["d2"]
        assert names(keys=["04a1", "a104"]) == names(session_id="s1") == ["d1"]
        assert authorizations.keys_asked_for(conn, noon, 10) == {"04a1", "04a2"}
        assert authorizations.keys_asked_for(conn, noon, 1) == {"04a2"}
    assert rows[0].latency == timedelta(milliseconds=4.2)


def test_any_text_from_outside_can_be_stored(ledger, noon):
    wild = "\0\ud800" + "x" * 5000
    parts = dict.fromkeys(("session_id", "reference_id", "location_id", "country_code", "key"), wild)
    with ledger.begin() as conn:
        authorizations.insert(conn, [decision("d1", noon, reason=wild, failure=wild, **parts)])
        (row,) = authorizations.find(conn, DecisionFilter())
    assert row.key.startswith("\\u0000\\ud800xxx")
    assert len(row.session_id) == 200


def test_no_key_is_in_a_representation(noon):
    assert "04a1b2" not in repr(decision("d1", noon, key="04a1b2"))
