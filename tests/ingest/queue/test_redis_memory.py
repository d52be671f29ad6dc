import pytest
import redis

from ingest.queue.redis_memory import RedisMemory, read_memory


@pytest.mark.parametrize(
    ("used", "limit", "policy", "is_nearly_full", "evicts"),
    [
        (80, 100, "noeviction", True, False),
        (79, 100, "allkeys-lru", False, True),
        (10**12, 0, "volatile-ttl", False, True),
    ],
)
def test_memory_counts_as_nearly_full_at_four_fifths(used, limit, policy, is_nearly_full, evicts):
    memory = RedisMemory(used, limit, policy)
    assert (memory.is_nearly_full, memory.evicts) == (is_nearly_full, evicts)


def test_the_memory_of_a_server_is_read(valkey):
    valkey.config_set("maxmemory", "512mb")
    try:
        memory = read_memory(valkey)
    finally:
        valkey.config_set("maxmemory", 0)
    assert (memory.limit, memory.policy, memory.is_nearly_full) == (536_870_912, "noeviction", False)
    assert str(memory).endswith("of 512 MB")


def test_a_server_that_does_not_tell_is_unknown(valkey, valkey_url):
    valkey.acl_setuser("guest", enabled=True, nopass=True, commands=["+@all", "-@dangerous"], keys=["*"])
    try:
        with redis.Redis.from_url(valkey_url, username="guest", password="any") as connection:
            assert connection.ping()
            assert read_memory(connection) is None
    finally:
        valkey.acl_deluser("guest")


def test_a_server_that_is_away_is_no_unknown():
    with pytest.raises(redis.ConnectionError):
        read_memory(redis.Redis(port=1))
