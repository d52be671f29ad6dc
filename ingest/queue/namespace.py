"""A Redis client that puts all its keys into a namespace, so that several installations can share one Redis.

RQ writes through it, too: its queues, jobs, registries and workers are in the namespace like our own keys. RQ has a
prefix of its own, but one for a whole process and fixed when it is imported.
"""

from typing import Any

import redis
from redis.client import Pipeline

# Commands whose keys are not just the first argument. All others begin with their only key; a test compares that with
# what a server says of its commands.
KEYLESS = {"ACL", "AUTH", "CLIENT", "COMMAND", "CONFIG", "DBSIZE", "DEBUG", "DISCARD", "ECHO", "EXEC", "FLUSHALL"}
KEYLESS |= {"FLUSHDB", "HELLO", "INFO", "MULTI", "PING", "ROLE", "SCRIPT", "SELECT", "SHUTDOWN", "TIME", "UNWATCH"}
KEYLESS |= {"BGREWRITEAOF", "BGSAVE", "CLUSTER", "FAILOVER", "FUNCTION", "LASTSAVE", "LATENCY", "MODULE", "MONITOR"}
KEYLESS |= {"ASKING", "LOLWUT", "PUBSUB", "QUIT", "READONLY", "READWRITE", "REPLICAOF", "RESET", "SAVE", "SLAVEOF"}
KEYLESS |= {"SLOWLOG", "SWAPDB", "WAIT", "WAITAOF"}
KEYLESS |= {"PUBLISH"}  # the name of a worker's channel is random
KEYS_ONLY = {"DEL", "EXISTS", "MGET", "PFCOUNT", "PFMERGE", "SDIFF", "SDIFFSTORE", "SINTER", "SINTERSTORE", "SUNION"}
KEYS_ONLY |= {"SUNIONSTORE", "TOUCH", "UNLINK", "WATCH"}
TWO_KEYS = {"BLMOVE", "BRPOPLPUSH", "COPY", "GEOSEARCHSTORE", "LCS", "LMOVE", "RENAME", "RENAMENX", "RPOPLPUSH"}
TWO_KEYS |= {"SMOVE", "ZRANGESTORE"}
TIMEOUT_LAST = {"BLPOP", "BRPOP", "BZPOPMAX", "BZPOPMIN"}
COUNTED_KEYS = {"EVAL", "EVALSHA", "EVALSHA_RO", "EVAL_RO", "FCALL", "FCALL_RO"}
UNSUPPORTED = {"BITOP", "BLMPOP", "BZMPOP", "LMPOP", "MIGRATE", "MSET", "MSETEX", "MSETNX", "OBJECT", "RANDOMKEY"}
UNSUPPORTED |= {"GEORADIUS", "GEORADIUSBYMEMBER", "SINTERCARD", "SORT", "SORT_RO", "XREADGROUP", "ZDIFF", "ZDIFFSTORE"}
UNSUPPORTED |= {"ZINTER", "ZINTERCARD", "ZINTERSTORE", "ZMPOP", "ZUNION", "ZUNIONSTORE"}
UNSUPPORTED |= {"BLMOVEM", "LMOVEM", "SDIFFCARD", "STRALGO", "SUNIONCARD"}  # of Redis only


class NamespacedRedis(redis.Redis):
    """Has the connections of a plain client, and puts `webhooks:<namespace>:` before each key."""

    def __init__(self, plain: redis.Redis, namespace: str) -> None:
        super().__init__(connection_pool=plain.connection_pool)
        self.plain = plain
        """The client without a namespace. It owns the connections."""
        self.namespace = namespace
        self._prefix = key_prefix(namespace)

    def execute_command(self, *args: Any, **options: Any) -> Any:
        """Execute a command with its keys in the namespace; keys in its response are without it."""
        command = _name(args)
        response = super().execute_command(*with_prefix(self._prefix, args), **options)  # type: ignore[no-untyped-call]
        if command in TIMEOUT_LAST and response is not None:
            return type(response)([_without(self._prefix, response[0]), *response[1:]])
        if command == "KEYS":
            return [_without(self._prefix, key) for key in response]
        if command == "SCAN":
            return response[0], [_without(self._prefix, key) for key in response[1]]
        return response

    def pipeline(self, transaction: bool = True, shard_hint: Any = None) -> Pipeline:  # noqa: FBT001, FBT002 - as redis-py has it
        """Return a pipeline in the same namespace."""
        return _NamespacedPipeline(self._prefix, self, transaction, shard_hint)

    def close(self) -> None:
        """Close the connections."""
        super().close()
        self.plain.close()


class _NamespacedPipeline(Pipeline):
    def __init__(self, prefix: str, client: redis.Redis, transaction: object, shard_hint: object) -> None:
        super().__init__(client.connection_pool, client.response_callbacks, transaction, shard_hint)
        self._prefix = prefix

    def execute_command(self, *args: Any, **options: Any) -> Any:
        return super().execute_command(*with_prefix(self._prefix, args), **options)  # type: ignore[no-untyped-call]


def key_prefix(namespace: str) -> str:
    """Return what stands before each key of a namespace."""
    return f"webhooks:{namespace}:"


def with_prefix(prefix: str, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the arguments of a command with a prefix before each key. Raise ValueError for unsupported commands."""
    command, rest = _name(args), args[1:]
    if command in KEYLESS:
        return args
    if command in UNSUPPORTED:
        raise ValueError(f"{command} is not supported within a namespace")
    if command == "SCAN":
        at = rest.index(b"MATCH") + 1 if b"MATCH" in rest else rest.index("MATCH") + 1 if "MATCH" in rest else None
        if at is None:
            return (*args, "MATCH", f"{prefix}*")
        keys = range(at, at + 1)
    elif command in KEYS_ONLY:
        keys = range(len(rest))
    elif command in TWO_KEYS:
        keys = range(2)
    elif command in TIMEOUT_LAST:
        keys = range(len(rest) - 1)
    elif command in COUNTED_KEYS:
        keys = range(2, 2 + int(rest[1]))
    elif command == "XREAD":
        streams = rest.index(b"STREAMS") + 1 if b"STREAMS" in rest else rest.index("STREAMS") + 1
        keys = range(streams, streams + (len(rest) - streams) // 2)
    else:
        keys = range(1)
    return (args[0], *(_with(prefix, each) if index in keys else each for index, each in enumerate(rest)))


def _name(args: tuple[Any, ...]) -> str:
    name = args[0].decode() if isinstance(args[0], bytes) else str(args[0])
    # "SCRIPT LOAD" and its like come as one argument; "MEMORY USAGE" and "XINFO STREAM" have a key.
    return name.upper().partition(" ")[0]


def _with(prefix: str, key: Any) -> str | bytes:
    return prefix.encode() + key if isinstance(key, bytes) else f"{prefix}{key}"


def _without(prefix: str, key: Any) -> Any:
    return key.removeprefix(prefix.encode()) if isinstance(key, bytes) else key.removeprefix(prefix)
