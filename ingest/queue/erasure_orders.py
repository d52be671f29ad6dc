"""Orders to erase, which every node finds in Redis and carries out in its inbox, and their reports.

An order names nobody: it has digests of the ids of sessions and of a driver. Whoever has an id can compute its digest,
so that what names it is recognized; the digest alone tells nothing of an id that cannot be guessed.
"""

import json
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from typing import Any

import redis

from ingest.errors import QueueUnavailable

# Hashes: the orders by their ids, and the reports by the id of the order and of the inbox.
ORDERS_KEY = "erasures"
REPORTS_KEY = "erasure_reports"
WORDS = re.compile(r"[\w@.+\-]+")
# An id may have other characters, too, as o'brien@example.com: what stands around it in a sentence is not of it.
PUNCTUATION = ".,;:!?\"'()[]{}<>"
DISTINCTIVE = 6
"""Characters. A shorter word of letters only, or number, is in many texts that mean something else."""


@dataclass(frozen=True, slots=True)
class ErasureOrder:
    """What is to be erased."""

    id: str
    at: float
    salt: str
    digests: frozenset[str] = field(default_factory=frozenset)
    """Of sessions, and of the driver."""
    users: frozenset[str] = field(default_factory=frozenset)
    """Those of the driver."""

    def to_fields(self) -> dict[str, Any]:
        """Return what JSON is made of."""
        return {**asdict(self), "digests": sorted(self.digests), "users": sorted(self.users)}

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> "ErasureOrder":
        """Parse what `to_fields` returned. Raise KeyError, TypeError or ValueError for anything else."""
        users = frozenset(fields.get("users", ()))  # a former version wrote none
        return cls(str(fields["id"]), float(fields["at"]), str(fields["salt"]), frozenset(fields["digests"]), users)

    def has(self, name: str) -> bool:
        """Return whether it is a driver or a session that is to be erased."""
        return erasure_digest(self.salt, name) in self.digests

    def is_in(self, *texts: bytes | str | None) -> bool:
        """Return whether one of the texts, as it is or as JSON, names what is to be erased."""
        return any(self.has(word) for text in texts for word in words_of(text))


@dataclass(frozen=True, slots=True)
class ErasureReport:
    """What a node has erased from its inbox."""

    quarantined: int = 0
    """Requests in quarantine."""
    is_rewritten: bool = True
    """Whether the file was rewritten, so that nothing is left in its free space."""


def erasure_digest(salt: str, identifier: str) -> str:
    """Return the digest of an id, in any case of its letters."""
    return sha256(f"{salt}\0{identifier.lower()}".encode("utf-8", "surrogatepass")).hexdigest()[:32]


def words_of(text: bytes | str | None) -> Iterator[str]:
    """Yield everything in a text that may be an id: its words; of JSON its strings and their distinctive words."""
    if not text:
        return
    plain = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
    try:
        strings = list(_strings(json.loads(plain)))
    except (ValueError, RecursionError):
        yield from WORDS.findall(plain)
        yield from _long_words(plain)
        return
    yield from strings
    for each in (plain, *strings):  # in a document, too: what a repeated name stands for is in no string
        yield from filter(is_distinctive, WORDS.findall(each))
        yield from _long_words(each)


def _long_words(text: str) -> Iterator[str]:
    """Yield what stands between spaces, of whatever characters, without the punctuation around it."""
    yield from (word for each in text.split() if len(word := each.strip(PUNCTUATION)) >= DISTINCTIVE)


def is_distinctive(word: str) -> bool:
    """Return whether a word that is equal to an id is likely to be that id, and not any number or word."""
    return len(word) >= DISTINCTIVE or not (word.isalpha() or word.isdecimal())


def list_orders(connection: redis.Redis) -> list[ErasureOrder]:
    """List all orders, the oldest first. Raise QueueUnavailable."""
    try:
        found = connection.hvals(ORDERS_KEY)
    except redis.RedisError as error:
        raise QueueUnavailable(f"erasures cannot be read: {type(error).__name__}") from error
    parsed = [_parse_order(text) for text in found]
    return sorted((order for order in parsed if order is not None), key=lambda order: (order.at, order.id))


def publish_orders(connection: redis.Redis, orders: Collection[ErasureOrder]) -> None:
    """Publish these orders, and no others; delete the reports on others. Raise RedisError."""
    ids = {order.id for order in orders}
    obsolete = sorted({text_of(name) for name in connection.hkeys(ORDERS_KEY)} - ids)
    old_reports = [name for name in connection.hkeys(REPORTS_KEY) if text_of(name).partition(":")[0] not in ids]
    with connection.pipeline(transaction=True) as pipe:
        if orders:
            pipe.hset(ORDERS_KEY, mapping={order.id: json.dumps(order.to_fields()) for order in orders})
        if obsolete:
            pipe.hdel(ORDERS_KEY, *obsolete)
        if old_reports:
            pipe.hdel(REPORTS_KEY, *old_reports)
        pipe.execute()


def publish_order(connection: redis.Redis, order: ErasureOrder) -> None:
    """Publish one more order. Raise RedisError."""
    connection.hset(ORDERS_KEY, order.id, json.dumps(order.to_fields()))


def report_erasure(connection: redis.Redis, order_id: str, inbox: str, report: ErasureReport) -> None:
    """Report that an inbox has carried out an order. Raise QueueUnavailable."""
    try:
        connection.hset(REPORTS_KEY, f"{order_id}:{inbox}", json.dumps(asdict(report)))
    except redis.RedisError as error:
        raise QueueUnavailable(f"an erasure cannot be reported: {type(error).__name__}") from error


def erasure_reports(connection: redis.Redis, order_id: str) -> Mapping[str, ErasureReport]:
    """Return the reports on an order, by inbox. Raise RedisError."""
    reports = {}
    for name, text in connection.hgetall(REPORTS_KEY).items():
        order, _, inbox = text_of(name).partition(":")
        if order == order_id:
            reports[inbox] = ErasureReport(**json.loads(text))
    return reports


def text_of(name: bytes | str) -> str:
    """Return the text of what redis-py returns."""
    return name.decode() if isinstance(name, bytes) else name


def _parse_order(text: bytes | str) -> ErasureOrder | None:
    try:
        return ErasureOrder.from_fields(json.loads(text))
    except (ValueError, TypeError, KeyError):  # of another version
        return None


def _strings(value: Any) -> Iterator[str]:
    match value:
        case dict():
            for name, each in value.items():
                yield from filter(is_distinctive, [name])
                yield from _strings(each)
        case list():
            for each in value:
                yield from _strings(each)
        case str():
            yield value
        case int() | float():
            yield from filter(is_distinctive, [str(value)])
