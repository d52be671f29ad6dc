"""The state of a sync: claimed by one clock at a time, and kept when it fails."""

from datetime import timedelta

from workers.ledger import sync_state


def test_one_sync_at_a_time_claims_the_list(ledger, noon):
    hour = timedelta(hours=1)
    with ledger.begin() as conn:
        assert sync_state.get(conn, "keys") is None
        assert sync_state.claim(conn, "keys", noon, hour)
        assert not sync_state.claim(conn, "keys", noon + hour / 2, hour)
        assert sync_state.claim(conn, "keys", noon + hour, hour)
        assert not sync_state.renew(conn, "keys", noon + hour, noon + 3 * hour)
        assert sync_state.renew(conn, "keys", noon + 2 * hour, noon + 3 * hour)
        assert not sync_state.claim(conn, "keys", noon + 2 * hour, hour)


def test_a_failed_sync_keeps_the_last_list(ledger, noon):
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
