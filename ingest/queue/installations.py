"""The installations on one Redis: workers and clocks announce theirs, so that no two meet in one namespace."""

import json
from dataclasses import asdict, dataclass, replace

import redis

# A hash outside of all namespaces, with a field for each installation.
KEY = "webhooks:installations"
# Seconds. Workers and clocks announce their installation every few seconds.
ALIVE_FOR = 90
FORGOTTEN_AFTER = 7 * 86_400


@dataclass(frozen=True, slots=True)
class Installation:
    """The processes that share a namespace and a ledger."""

    namespace: str
    ledger: str
    storage: str
    """Which database that is: a copy of a ledger has the id of the original, and other storage."""
    since: int = 0
    """When it was first announced. Times are by the clock of Redis, in seconds."""
    seen_at: int = 0
    """When it was last announced."""
    is_alive: bool = False

    @property
    def field(self) -> str:
        """Return its field in the hash."""
        return f"{self.namespace}:{self.ledger}:{self.storage}"


def list_installations(connection: redis.Redis) -> list[Installation]:
    """List all installations, the oldest first. Raise RedisError."""
    now = _now(connection)
    found = [_parse(text) for text in connection.hgetall(KEY).values()]
    alive = [replace(each, is_alive=now - each.seen_at < ALIVE_FOR) for each in found if each is not None]
    return sorted(alive, key=lambda each: (each.since, each.field))


def announce(connection: redis.Redis, own: Installation) -> Installation | None:
    """Announce an installation; return an older one that is alive in the same namespace, if any. Raise RedisError.

    `connection` has no namespace. The one that came later must not work.
    """
    now = _now(connection)
    known = list_installations(connection)
    since = next((each.since for each in known if each.field == own.field and each.is_alive), now)
    text = json.dumps(asdict(replace(own, since=since, seen_at=now)))
    with connection.pipeline(transaction=True) as pipe:
        pipe.hset(KEY, own.field, text)
        for each in known:
            if now - each.seen_at > FORGOTTEN_AFTER:
                pipe.hdel(KEY, each.field)
        pipe.execute()
    later = (since, own.field)
    older = (each for each in known if each.is_alive and (each.since, each.field) < later and is_conflict(each, own))
    return next(older, None)


def is_conflict(one: Installation, other: Installation) -> bool:
    """Return whether two installations are in one namespace, and have different ledgers or copies of one."""
    are_copies = bool(one.storage and other.storage) and one.storage != other.storage
    return one.namespace == other.namespace and (one.ledger != other.ledger or are_copies)


def withdraw(connection: redis.Redis, own: Installation) -> None:
    """Take back an announcement. Raise RedisError."""
    connection.hdel(KEY, own.field)


def _now(connection: redis.Redis) -> int:
    seconds, _ = connection.time()
    return int(seconds)


def _parse(text: bytes | str) -> Installation | None:
    try:
        return Installation(**json.loads(text))
    except (ValueError, TypeError):  # of another version
        return None
