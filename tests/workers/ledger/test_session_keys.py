"""The keys of sessions: from questions at the charger, and from the Drive API."""

from datetime import timedelta

from workers.ledger import authorizations, charging_keys, sessions
from workers.ledger.authorizations import DecisionRow
from workers.ledger.charging_keys import OpenSession


def test_the_key_of_a_session_is_known_from_a_question_and_from_the_drive_api(ledger, noon):
    with ledger.begin() as conn:
        asked = DecisionRow("d1", noon, "ocpi", "ALLOWED", None, None, 1, session_id="s1", key="04a1")
        unnamed = DecisionRow("d2", noon, "ocpi", "ALLOWED", None, None, 1, session_id="s2")
        authorizations.insert(conn, [asked, unnamed])
        charging_keys.record_session_keys(conn, {"s2": "04:A2"}, noon)
        charging_keys.record_session_keys(conn, {"s2": "04:A3"}, noon)
        assert sorted(charging_keys.keys_of_sessions(conn, ["s1", "s2", "s3"])) == [("s1", "04a1"), ("s2", "04a2")]


def test_sessions_are_open_until_something_says_that_they_are_over(ledger, noon, says):
    told = {"s1": "STARTED", "s2": "COMPLETE", "s3": "STOP_FAILED", "s4": "START_FAILED", "s5": "WAITING_TO_START"}
    with ledger.begin() as conn:
        sessions.merge(conn, {session_id: says(status) for session_id, status in told.items()})
        found = sorted(each.session_id for each in charging_keys.open_sessions(conn, noon))
        assert found == ["s1", "s3", "s5"]
        assert OpenSession("s1", None) in list(charging_keys.open_sessions(conn, noon))
        assert list(charging_keys.open_sessions(conn, noon + timedelta(days=365 * 100))) == []
