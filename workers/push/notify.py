"""How a worker tells the clock, through Redis, that there are pushes to send: at once, and not with its next look."""

from collections.abc import Collection
from datetime import timedelta

import redis
import structlog

log = structlog.get_logger()

KEPT = timedelta(minutes=1)


def notify_senders(connection: redis.Redis, channels: Collection[str]) -> None:
    """Wake whoever sends on these channels. If Redis is away they find the pushes by themselves a little later."""
    try:
        with connection.pipeline(transaction=True) as pipe:
            for name in channels:
                pipe.lpush(_key(name), 1)
                pipe.ltrim(_key(name), 0, 0)
                pipe.pexpire(_key(name), KEPT)
            pipe.execute()
    except redis.RedisError as error:
        log.info("senders.not_woken", reason=type(error).__name__)


def wait_for_notification(connection: redis.Redis, channels: Collection[str], patience: timedelta) -> str | None:
    """Wait for a channel to be woken and return its name; None if none was. Raises RedisError."""
    keys = {_key(name): name for name in channels}
    woken: object = connection.blpop(list(keys), timeout=patience.total_seconds())
    match woken:
        case (bytes(key), _):
            return keys.get(key.decode())
        case _:
            return None


def _key(channel: str) -> str:
    return f"webhooks:pushes:{channel}"
