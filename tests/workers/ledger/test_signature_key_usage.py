"""How often signing keys matched, counted as deliveries are stored."""

from datetime import timedelta

from workers.ledger import signature_key_usage
from workers.ledger.signature_key_usage import KeyUsage

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
