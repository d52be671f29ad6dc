"""Erasure in Redis: descriptions of jobs, dead letters, and the files that Redis writes."""

import contextlib
from collections import Counter
from collections.abc import Iterator

import redis
from rq.job import Job

from ingest.queue.batch import batch_key
from ingest.queue.erasure_orders import ErasureOrder, words_of
from workers.execution.dead_letters import withdraw
from workers.ledger.session_erasure import ERASED
from workers.privacy.erasure_targets import ErasureTargets

PAGE = 1000


def erase_from_redis(connection: redis.Redis, order: ErasureOrder, targets: ErasureTargets) -> Counter[str]:
    """Delete dead letters and descriptions of jobs that name what is erased, and count them. Raise RedisError.

    The order knows sessions that the ledger has no more.

    Batches on their way are counted only: they are erased as soon as they are in the ledger.
    """
    erased = Counter[str]()
    withdraw(connection, sorted(targets.job_ids))
    names = {name.lower() for name in targets.names}

    def is_named(text: bytes | str | None) -> bool:
        return any(word.lower() in names or order.has(word) for word in words_of(text))

    for key in _scan(connection, f"{Job.redis_job_namespace_prefix}*"):
        with contextlib.suppress(redis.ResponseError):  # not a hash
            if is_named(connection.hget(key, "description")):
                connection.hset(key, "description", ERASED)
                erased["jobs"] += 1
    for key in _scan(connection, batch_key("*")):
        if is_named(connection.get(key)):
            erased["batches_on_their_way"] += 1
    return erased


def rewrite_files(connection: redis.Redis) -> bool:
    """Start to rewrite the append-only file of Redis in the background; return whether Redis does that."""
    with contextlib.suppress(redis.RedisError):  # a hosted Redis may not allow it
        connection.bgrewriteaof()
        return True
    return False


def _scan(connection: redis.Redis, pattern: str) -> Iterator[str]:
    for key in connection.scan_iter(match=pattern, count=PAGE):
        yield key.decode()
