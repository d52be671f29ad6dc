"""How often signing keys matched, counted as deliveries are stored."""

from datetime import timedelta

from sqlalchemy import delete

from workers.diagnostics.key_usage import key_uses, rotation_status
from workers.ledger import signature_key_usage
from workers.ledger.signature_key_usage import KeyUsage
from workers.ledger.tables.key_tables import signing_key_uses

MINUTE = timedelta(minutes=1)


def test_each_delivery_is_counted_once_in_whatever_slot(ledger, noon):
    for number in range(20):  # more than one slot, almost surely
        ledger.store(ledger.delivery(f"d{number}", received_at=noon + number * MINUTE))
    ledger.store(ledger.delivery("d0"), ledger.delivery("n", signed_with="next", received_at=noon))
    with ledger.begin() as conn:
        assert signature_key_usage.find(conn) == {
            "current": KeyUsage(20, noon, noon + 19 * MINUTE),
            "next": KeyUsage(1, noon, noon),
        }
        assert signature_key_usage.matched_since(conn, "current", noon + 17 * MINUTE).count == 2
        assert signature_key_usage.matched_since(conn, "next", noon) is None


def test_current_is_still_needed_where_a_version_that_counts_nothing_has_stored_what_it_matched(ledger, noon):
    ledger.store(ledger.delivery("counted", received_at=noon))
    ledger.store(ledger.delivery("next", signed_with="next", received_at=noon + MINUTE))
    with ledger.begin() as conn:
        assert rotation_status(conn, key_uses(conn)).is_done
        counted = list(conn.execute(signing_key_uses.select()))
    ledger.store(ledger.delivery("not counted", received_at=noon + 2 * MINUTE))
    with ledger.begin() as conn:
        conn.execute(delete(signing_key_uses))
        conn.execute(signing_key_uses.insert(), [row._asdict() for row in counted])
        status = rotation_status(conn, key_uses(conn))
    assert (status.current_last_at, status.is_done) == (noon + 2 * MINUTE, False)
