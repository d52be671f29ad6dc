import traceback

import pytest
import redis

from ingest.errors import SettingsError
from ingest.queue.redis_client import connect_redis, queue


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("redis://example:1/2", {"host": "example", "port": 1, "db": 2}),
        ("rediss://:secret@example:1", {"host": "example", "password": "secret"}),
        ("unix:///tmp/valkey.sock?db=3", {"path": "/tmp/valkey.sock", "db": 3}),
    ],
)
def test_a_url_names_the_server(url, options):
    taken = connect_redis(url).connection_pool.connection_kwargs
    assert taken.items() >= options.items()


def test_sentinels_lead_to_the_master_of_a_service():
    pool = connect_redis("redis+sentinel://:secret@one:26379,two:26380/mymaster/3", timeout=1).connection_pool
    assert (pool.service_name, pool.is_master) == ("mymaster", True)
    assert pool.connection_kwargs["db"] == 3
    assert pool.connection_kwargs["socket_timeout"] == 1
    sentinels = [each.connection_pool.connection_kwargs for each in pool.sentinel_manager.sentinels]
    assert [each["port"] for each in sentinels] == [26379, 26380]
    assert {each["socket_timeout"] for each in sentinels} == {1}


@pytest.mark.parametrize(
    "url",
    [
        "http://secret",
        "redis://:s3cr/etpw@example:6379/0",
        "redis://example:secret",
        "redis://example?socket_timeout=secret",
        "redis+sentinel://one:26379",
        "redis+sentinel://one:secret/mymaster",
    ],
)
def test_an_invalid_url_is_refused_and_not_quoted(url):
    with pytest.raises(SettingsError, match=r"\AREDIS_URL [a-zA-Z ]+\.\Z") as caught:
        connect_redis(url)
    assert "".join(traceback.format_exception(caught.value)).count("s3cr") == 0


def test_an_unavailable_server_is_detected_at_once():
    with pytest.raises(redis.ConnectionError):
        connect_redis("redis://127.0.0.1:1").ping()


def test_a_connection_that_was_closed_while_idle_is_opened_again(valkey_url):
    connection = connect_redis(valkey_url)
    connection.ping()
    with redis.Redis.from_url(valkey_url) as other:
        other.client_kill_filter(_type="normal", skipme=True)
    assert connection.ping()


def test_jobs_are_json_and_never_pickle(valkey):
    job = queue("urgent", valkey).enqueue("builtins.len", "word")
    assert b'"builtins.len"' in job.data
