"""How full Redis is, and whether it evicts keys."""

from dataclasses import dataclass

import redis

NEARLY_FULL = 0.8
"""The share of `maxmemory` at which people are told, and from which the relay publishes little at a time."""


@dataclass(frozen=True, slots=True)
class RedisMemory:
    """The memory of a Redis server, in bytes."""

    used: int
    limit: int
    """0: without a limit."""
    policy: str
    """What happens at the limit: `noeviction`, or which keys are evicted."""

    @property
    def is_nearly_full(self) -> bool:
        """Return whether little is left."""
        return 0 < self.limit * NEARLY_FULL <= self.used

    @property
    def evicts(self) -> bool:
        """Return whether keys vanish when the memory is used up."""
        return self.policy != "noeviction"

    def __str__(self) -> str:
        """Format it for people."""
        return f"{self.used / 1_048_576:.0f} of {self.limit / 1_048_576:.0f} MB"


def read_memory(connection: redis.Redis) -> RedisMemory | None:
    """Return the memory of Redis; None if it does not tell, by its ACL for instance. Raise RedisError if it is away."""
    try:
        info: dict[str, object] = connection.info("memory")
    except redis.ResponseError:  # NOPERM, or INFO was renamed
        return None
    try:
        used, limit = int(str(info["used_memory"])), int(str(info.get("maxmemory", 0)))
        return RedisMemory(used, limit, str(info.get("maxmemory_policy", "noeviction")))
    except (KeyError, ValueError):
        return None


def full_text(memory: RedisMemory) -> str:
    """Return what is wrong with a Redis that is nearly full, and what to do."""
    return (
        f"Redis has used {memory}; without any left no job can be taken, and events wait in the inbox. Raise maxmemory,"
        " find what fills it (`redis-cli --bigkeys`), or lower FAILED_JOBS_SHOWN."
    )


def eviction_text(memory: RedisMemory) -> str:
    """Return what is wrong with a Redis that evicts keys, and what to do."""
    return (
        f"The maxmemory-policy of Redis is {memory.policy}: when its memory is used up, jobs vanish and are published"
        " again, again and again. Set it to noeviction, or use a Redis of its own."
    )
