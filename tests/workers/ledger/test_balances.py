"""Prepaid balances: which are read next, and what a read changes."""

from datetime import timedelta
from decimal import Decimal

from workers.ledger import balances, charging_keys
from workers.ledger.balances import Balance
from workers.ledger.charging_keys import KeyRow

MINUTE = timedelta(minutes=1)
EXACT = Decimal("0.1000000000000000000000000001")


def claim(conn, now, limit=10):
    return balances.claim(conn, now, MINUTE, limit=limit)


def expect(conn, users, now):
    listed = [KeyRow(f"key-{user}", enabled=True, contract_id=user) for user in users]
    charging_keys.replace_all(conn, listed, 1, now)
    balances.schedule_contracts(conn, now)


def test_contracts_with_a_usable_key_are_read_routinely(ledger, noon):
    keys = [
        KeyRow("01", enabled=True, contract_id="c1"),
        KeyRow("02", enabled=True, contract_id="c1"),
        KeyRow("03", enabled=False, contract_id="locked"),
        KeyRow("04", enabled=True),
    ]
    with ledger.begin() as conn:
        charging_keys.replace_all(conn, [*keys, KeyRow("05", enabled=True, contract_id="gone")], 1, noon)
        charging_keys.replace_all(conn, keys, 2, noon)
        balances.schedule_contracts(conn, noon)
        balances.schedule_contracts(conn, noon + MINUTE)
        assert claim(conn, noon) == ["c1"]


def test_a_balance_that_a_driver_waits_for_has_priority(ledger, noon):
    with ledger.begin() as conn:
        expect(conn, ["routine", "asked"], noon)
        balances.request(conn, ["asked", "new"], noon, older_than=5 * MINUTE)
        balances.request(conn, [], noon, older_than=5 * MINUTE)
        assert balances.is_any_due(conn, noon)
        assert set(claim(conn, noon, 2)) == {"asked", "new"}
        assert claim(conn, noon) == ["routine"]
        assert not balances.is_any_due(conn, noon)
        assert balances.is_any_due(conn, noon + MINUTE)


def test_a_balance_is_exact_and_read_again_sooner_if_it_is_wanted(ledger, noon):
    with ledger.begin() as conn:
        expect(conn, ["seldom"], noon)
        balances.request(conn, ["often"], noon, older_than=5 * MINUTE)
        claim(conn, noon)
        read = [Balance("often", EXACT, noon), Balance("seldom", Decimal("-1.50"), noon)]
        balances.mark_read(conn, read, every=5 * MINUTE, otherwise=60 * MINUTE)
        assert sorted(balances.read_since(conn, noon), key=lambda one: one.user_id) == read
        assert balances.read_since(conn, noon + MINUTE) == []
        assert claim(conn, noon + 5 * MINUTE) == ["often"]
        assert claim(conn, noon + 60 * MINUTE, 1) == ["often"]
        assert claim(conn, noon + 60 * MINUTE, 1) == ["seldom"]


def test_an_old_balance_that_is_wanted_is_read_at_once_and_a_new_one_is_not(ledger, noon):
    with ledger.begin() as conn:
        expect(conn, ["u1"], noon)
        claim(conn, noon)
        balances.mark_read(conn, [Balance("u1", EXACT, noon)], every=5 * MINUTE, otherwise=600 * MINUTE)
        balances.request(conn, ["u1"], noon + MINUTE, older_than=5 * MINUTE)
        assert claim(conn, noon + MINUTE) == []
        balances.request(conn, ["u1"], noon + 6 * MINUTE, older_than=5 * MINUTE)
        assert claim(conn, noon + 6 * MINUTE) == ["u1"]


def test_a_failed_read_is_not_repeated_at_once(ledger, noon):
    with ledger.begin() as conn:
        balances.request(conn, ["u1"], noon, older_than=5 * MINUTE)
        claim(conn, noon)
        balances.mark_read(conn, [Balance("u1", EXACT, noon)], every=5 * MINUTE, otherwise=5 * MINUTE)
        balances.mark_failed(conn, ["u1"], noon + 6 * MINUTE, noon + 7 * MINUTE, "away")
        balances.request(conn, ["u1"], noon + 6.5 * MINUTE, older_than=5 * MINUTE)
        assert claim(conn, noon + 6.5 * MINUTE) == []
        assert [one.amount for one in balances.read_since(conn, noon)] == [EXACT]
        assert claim(conn, noon + 7 * MINUTE) == ["u1"]


def test_no_user_and_no_amount_is_in_a_representation(noon):
    assert repr(Balance("user1", EXACT, noon)).count("0.1") == 0
    assert "user1" not in repr(Balance("user1", EXACT, noon))
