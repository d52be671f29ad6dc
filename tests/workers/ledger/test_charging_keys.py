"""The list of charging keys in the ledger, and when it was read."""

from dataclasses import replace
from datetime import timedelta

from workers.ledger import charging_keys, sync_state
from workers.ledger.charging_keys import KeyRow

ONE, TWO = KeyRow("04a1", enabled=True, contract_id="c1", fleet_id="f"), KeyRow("04a2", enabled=False, contract_id="c2")


def changes(conn, since):
    return charging_keys.changed(conn, since, "", 10)


def test_a_new_list_takes_the_place_of_the_last_one_and_tells_its_changes_only(ledger, noon):
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


def test_one_reader_at_a_time_has_the_list(ledger, noon):
    hour = timedelta(hours=1)
    with ledger.begin() as conn:
        assert sync_state.get(conn, "keys") is None
        assert sync_state.claim(conn, "keys", noon, hour)
        assert not sync_state.claim(conn, "keys", noon + hour / 2, hour)
        assert sync_state.claim(conn, "keys", noon + hour, hour)
        assert not sync_state.renew(conn, "keys", noon + hour, noon + 3 * hour)
        assert sync_state.renew(conn, "keys", noon + 2 * hour, noon + 3 * hour)
        assert not sync_state.claim(conn, "keys", noon + 2 * hour, hour)


def test_a_reading_that_fails_leaves_what_was_read(ledger, noon):
    later = noon + timedelta(minutes=5)
    with ledger.begin() as conn:
        sync_state.claim(conn, "keys", noon, timedelta(minutes=1))
        assert sync_state.begin_generation(conn, "keys") == 1
        sync_state.mark_complete(conn, "keys", noon, later, 7)
        sync_state.mark_failed(conn, "keys", later, later, "the Drive API is away")
        stands = sync_state.get(conn, "keys")
        assert (stands.generation, stands.read_at, stands.rows_read) == (1, noon, 7)
        assert (stands.failed_at, stands.reason) == (later, "the Drive API is away")
        assert sync_state.begin_generation(conn, "keys") == 2
        sync_state.mark_complete(conn, "keys", later, later, 8)
        assert sync_state.get(conn, "keys").failed_at is None
        assert not sync_state.expedite(conn, "keys", noon, instead_of=noon)
        assert sync_state.expedite(conn, "keys", noon, instead_of=later)
        assert sync_state.claim(conn, "keys", noon, timedelta(minutes=1))
