"""Notifies the clock, through Redis, of new pushes: they are sent at once, not at its next poll of the ledger."""

from collections.abc import Collection
from datetime import timedelta

import redis
import structlog

log = structlog.get_logger()

EXPIRY = timedelta(minutes=1)


def notify_senders(connection: redis.Redis, channels: Collection[str]) -> None:
    """Notify the senders of these channels. While Redis is unavailable they find the pushes by polling."""
    try:
        with connection.pipeline(transaction=True) as pipe:
            for name in channels:
                pipe.lpush(_key(name), 1)
                pipe.ltrim(_key(name), 0, 0)
                pipe.pexpire(_key(name), EXPIRY)
            pipe.execute()
    except redis.RedisError as error:
        log.info("senders.notify_failed", reason=type(error).__name__)


def wait_for_notification(connection: redis.Redis, channels: Collection[str], timeout: timedelta) -> str | None:
    """Wait for a notification and return its channel; None after the timeout. Raises RedisError."""
    keys = {_key(name): name for name in channels}
    notified: object = connection.blpop(list(keys), timeout=timeout.total_seconds())
    match notified:
        case (bytes(key), _):
            return keys.get(key.decode())
        case _:
            return None


def _key(channel: str) -> str:
    return f"pushes:{channel}"
