"""The clients of Redis and of the RQ queues in it."""

import redis
import redis.sentinel
import redis_sentinel_url
from redis.backoff import NoBackoff
from redis.retry import Retry
from rq import Queue
from rq.serializers import JSONSerializer

from ingest.errors import SettingsError
from ingest.queue.namespace import NamespacedRedis


def connect_queues(url: str, namespace: str, *, timeout: float = 5) -> NamespacedRedis:
    """Return a client for the queues of one installation, as `connect_redis` does."""
    return NamespacedRedis(connect_redis(url, timeout=timeout), namespace)


def connect_redis(url: str, *, timeout: float = 5) -> redis.Redis:
    """Return a client that connects on first use; `timeout` in seconds, for connecting and for each response.

    Accepts redis://, rediss://, unix:// and redis+sentinel://host:port,host:port/service/db. Raise SettingsError, which
    quotes no part of the URL, for anything else.
    """
    options = {
        "socket_timeout": timeout,
        "socket_connect_timeout": timeout,
        "socket_keepalive": True,
        # Once, for an idle connection that the server closed. redis-py's default of ten attempts, over seconds, would
        # hide from the caller that Redis is unavailable.
        "retry": Retry(NoBackoff(), 1),
    }
    if url.startswith("unix:"):
        del options["socket_connect_timeout"], options["socket_keepalive"]
    try:
        _, client = redis_sentinel_url.connect(url, sentinel_options=options, client_options=options)
    except ValueError:  # it quotes what it takes for a port, which may be part of the password
        raise SettingsError("REDIS_URL is not a URL of a Redis server.") from None
    pool = client.connection_pool
    if isinstance(pool, redis.sentinel.SentinelConnectionPool) and pool.service_name is None:
        raise SettingsError("REDIS_URL needs the name of a service after the hosts.")
    return client  # type: ignore[no-any-return]  # redis_sentinel_url is untyped; it returns redis-py's client


def queue(name: str, connection: redis.Redis) -> Queue:
    """Return a queue, whose jobs are JSON, never pickle."""
    return Queue(name, connection=connection, serializer=JSONSerializer)
