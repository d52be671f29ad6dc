"""Redis and the RQ queues on it: how each process connects, and the names that both ends agree on."""

import redis
import redis.sentinel
import redis_sentinel_url
from redis.backoff import NoBackoff
from redis.retry import Retry
from rq import Queue
from rq.serializers import JSONSerializer

from ingest.errors import SettingsError

QUEUES = ("urgent", "sessions", "cdrs", "other")
"""A worker on all of them serves the first one before all others, which take turns."""

# A worker is named by import strings only: the front door must not import what plugins can break.
BATCH_JOB = "workers.execution.jobs.work_batch"
RUNS_JOB = "workers.execution.jobs.work_runs"


def connect_redis(url: str, *, timeout: float = 5) -> redis.Redis:
    """Make a client that connects when it is first used; `timeout` in seconds, for connecting and for each answer.

    Takes redis://, rediss://, unix:// and redis+sentinel://host:port,host:port/service/db.
    Raises SettingsError, without a part of the URL, for anything else.
    """
    options = {
        "socket_timeout": timeout,
        "socket_connect_timeout": timeout,
        "socket_keepalive": True,
        # Once, for a connection that the server closed while it idled. redis-py would try ten times, for seconds,
        # and keep its caller from knowing that Redis is away.
        "retry": Retry(NoBackoff(), 1),
    }
    if url.startswith("unix:"):
        del options["socket_connect_timeout"], options["socket_keepalive"]
    try:
        _, client = redis_sentinel_url.connect(url, sentinel_options=options, client_options=options)
    except ValueError:  # repeats what it takes for a port, which may be a part of the password
        raise SettingsError("REDIS_URL is not a URL of a Redis server.") from None
    pool = client.connection_pool
    if isinstance(pool, redis.sentinel.SentinelConnectionPool) and pool.service_name is None:
        raise SettingsError("REDIS_URL needs the name of a service after the hosts.")
    return client  # type: ignore[no-any-return]  # redis_sentinel_url has no types; it makes what redis-py makes


def queue(name: str, connection: redis.Redis) -> Queue:
    """Open one of our queues. Its jobs are JSON, never pickle."""
    return Queue(name, connection=connection, serializer=JSONSerializer)
