"""The devices of drivers in the ledger."""

from datetime import timedelta

from handlers import Device
from workers.ledger import devices

ANDROID = Device("token-a", "android", "nl-BE", "Europe/Brussels")


def test_the_devices_of_a_user_are_listed_the_last_registered_first(ledger, noon):
    with ledger.begin() as conn:
        devices.upsert(conn, "u1", ANDROID, noon)
        devices.upsert(conn, "u1", Device("token-b"), noon + timedelta(hours=1))
        devices.upsert(conn, "u2", Device("token-c"), noon)
        assert devices.of_user(conn, "u1") == [Device("token-b"), ANDROID]
        assert [row.token for row in devices.find(conn)] == ["token-b", "token-a", "token-c"]
        assert [row.token for row in devices.find(conn, user_id="u2")] == ["token-c"]


def test_a_token_belongs_to_one_user_at_a_time(ledger, noon):
    with ledger.begin() as conn:
        devices.upsert(conn, "u1", ANDROID, noon)
        devices.upsert(conn, "u2", ANDROID, noon)
        assert devices.of_user(conn, "u1") == []
        assert not devices.delete(conn, "u1", "token-a")
        assert devices.delete(conn, "u2", "token-a")
        assert devices.of_user(conn, "u2") == []


def test_tokens_that_a_provider_does_not_know_any_more_are_deleted(ledger, noon):
    with ledger.begin() as conn:
        devices.upsert(conn, "u1", ANDROID, noon)
        devices.upsert(conn, "u1", Device("token-b"), noon)
        devices.delete_tokens(conn, ["token-a", "token-x"])
        devices.delete_tokens(conn, [])
        assert devices.of_user(conn, "u1") == [Device("token-b")]


def test_no_token_and_no_user_is_in_a_representation(ledger, noon):
    with ledger.begin() as conn:
        devices.upsert(conn, "user-1", ANDROID, noon)
        (row,) = devices.find(conn)
    assert "token-a" not in repr(row) + repr(ANDROID)
    assert "user-1" not in repr(row)
