"""Charging keys: the list of the Drive API, and the keys that sessions started with."""

from dataclasses import replace
from datetime import timedelta

from workers.ledger import authorizations, charging_keys, sessions
from workers.ledger.authorizations import DecisionRow
from workers.ledger.charging_keys import KeyRow

ONE, TWO = KeyRow("04a1", enabled=True, contract_id="c1", fleet_id="f"), KeyRow("04a2", enabled=False, contract_id="c2")


def changes(conn, since):
    return charging_keys.changed(conn, since, "", 10)


def test_a_new_list_replaces_the_last_one_and_only_changes_are_listed(ledger, noon):
    with ledger.begin() as conn:
        assert charging_keys.replace_all(conn, [ONE, TWO], 1, noon) == 2
        assert changes(conn, 0) == [(ONE, True), (TWO, True)]
        assert charging_keys.changed(conn, 0, "04a1", 1) == [(TWO, True)]

        assert charging_keys.replace_all(conn, [ONE, TWO], 2, noon) == 0
        assert changes(conn, 1) == []

        back = replace(TWO, enabled=True, valid_to=noon)
        assert charging_keys.replace_all(conn, [back], 3, noon) == 2
        assert changes(conn, 2) == [(ONE, False), (back, True)]
        assert charging_keys.existing(conn, ["04a1", "04a2", "04a3"]) == {"04a2"}
        assert charging_keys.count(conn) == 1

        assert charging_keys.replace_all(conn, [ONE, back], 4, noon) == 1
        assert changes(conn, 3) == [(ONE, True)]


def test_the_key_of_a_session_is_known_from_requests_and_from_the_drive_api(ledger, noon):
    with ledger.begin() as conn:
        requested = DecisionRow("d1", noon, "ocpi", "ALLOWED", None, None, 1, session_id="s1", key="04a1")
        without_key = DecisionRow("d2", noon, "ocpi", "ALLOWED", None, None, 1, session_id="s2")
        authorizations.insert(conn, [requested, without_key])
        charging_keys.record_session_keys(conn, {"s2": "04:A2"}, noon)
        charging_keys.record_session_keys(conn, {"s2": "04:A3"}, noon)
        assert sorted(charging_keys.keys_of_sessions(conn, ["s1", "s2", "s3"])) == [("s1", "04a1"), ("s2", "04a2")]


def test_only_a_session_that_has_started_and_nothing_after_it_charges(ledger, noon, says):
    statuses = {"s1": "STARTED", "s2": "COMPLETE", "s3": "STOP_FAILED", "s4": "START_FAILED", "s5": "WAITING_TO_START"}
    with ledger.begin() as conn:
        sessions.merge(conn, {session_id: says(status) for session_id, status in statuses.items()})
        found = sorted(each.session_id for each in charging_keys.charging_sessions(conn, noon))
        assert found == ["s1"]
        assert ("s1", None) in list(charging_keys.charging_sessions(conn, noon))
        assert list(charging_keys.charging_sessions(conn, noon + timedelta(days=365 * 100))) == []
