"""Batches: one batch is one RQ job, and its deliveries are in a Redis key beside the job.

request -> envelope -> inbox -> relay -> [batch] -> jobs -> handler -> ledger
"""

import json
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import orjson

LONGEST_NAME = 64
MOST_NAMES = 20
LONGEST_DESCRIPTION = 200
DRIVE_API = "drive-api"
"""In place of an inbox and of a key: an event that nobody sent, made from what was read at the Drive API."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """A kept envelope. Without a body it is a duplicate of the delivery of its id."""

    id: str
    kind: str
    event: str | None
    session_id: str | None
    received_at: datetime
    signed_with: str
    signed_at: datetime | None
    headers: Mapping[str, str]
    body: bytes | None
    receipts: int
    inbox: str

    @property
    def is_healed(self) -> bool:
        """Whether nobody sent it: it is made from what was read at the Drive API."""
        return self.inbox == DRIVE_API


@dataclass(frozen=True, slots=True)
class Batch:
    """The deliveries of one RQ job, whose id is the batch's."""

    id: str
    inbox: str
    queue: str
    deliveries: tuple[Delivery, ...]
    isolated: bool = False
    """The only delivery of its batch, because workers died while they processed larger ones."""
    poison: bool = False
    """It killed too many workers alone: a dead letter, not to be handled."""
    read_ahead: tuple[Delivery, ...] = ()
    """Events of its sessions that other batches carry, or will: their records are merged here too, nothing else."""

    @classmethod
    def from_json(cls, text: bytes) -> "Batch":
        """Decode a batch that `encode_batch` encoded."""
        fields = _parse(text)
        inbox = fields["inbox"]
        _share_headers(fields["deliveries"])
        return cls(
            id=fields["id"],
            inbox=inbox,
            queue=fields["queue"],
            deliveries=tuple(_delivery(each, inbox) for each in fields["deliveries"]),
            isolated=fields["solo"],
            poison=fields["poison"],
            read_ahead=tuple(_delivery(each, inbox) for each in fields.get("read_ahead", ())),
        )


def encode_batch(  # noqa: PLR0913 - the fields of a batch, by name
    batch_id: str,
    *,
    inbox: str,
    queue: str,
    deliveries: bytes,
    isolated: bool,
    poison: bool,
    read_ahead: bytes = b"[]",
) -> bytes:
    """Encode a batch for Redis, around the JSON of its deliveries (see `ingest.relay.outbox`)."""
    fields = {"id": batch_id, "inbox": inbox, "queue": queue, "solo": isolated, "poison": poison}
    return b'%b, "deliveries": %b, "read_ahead": %b}' % (json.dumps(fields).encode()[:-1], deliveries, read_ahead)


def description(deliveries: Sequence[tuple[str, bool]], session_id: str | None) -> str:
    """Format one line about a job for the dashboard, from the name of each delivery and whether it is a duplicate."""
    if len(deliveries) == 1:
        ((name, duplicate),) = deliveries
        return " ".join(filter(None, ("repeat of" if duplicate else "", _truncate(name), _truncate(session_id or ""))))
    counts = Counter("repeat" if duplicate else name for name, duplicate in deliveries)
    named = ", ".join(f"{count} {_truncate(name)}" for name, count in counts.most_common(MOST_NAMES))
    text = f"{len(deliveries)} deliveries: {named}"
    return text if len(text) <= LONGEST_DESCRIPTION else text[: LONGEST_DESCRIPTION - 1] + "…"


def new_batch_id() -> str:
    """Return a new id, of the characters that RQ accepts in the id of a job."""
    return uuid.uuid4().hex


def batch_key(batch_id: str) -> str:
    """Return the Redis key that holds the batch's deliveries until it is acknowledged."""
    return f"batch:{batch_id}"


def ack_key(inbox_id: str) -> str:
    """Return the Redis list on which workers acknowledge an inbox's batches, by id."""
    return f"settled:{inbox_id}"


def lease_key(job_id: str) -> str:
    """Return the Redis counter that is incremented while a worker holds the job."""
    return f"lease:{job_id}"


def timestamp_or_none(epoch: float | None) -> datetime | None:
    """Return the time of seconds since 1970; None if it is out of range, as a sender may claim any time of signing."""
    try:
        return None if epoch is None else datetime.fromtimestamp(epoch, UTC)
    except (ValueError, OverflowError, OSError):
        return None


def _delivery(fields: Mapping[str, Any], inbox: str) -> Delivery:
    return Delivery(
        id=fields["id"],
        kind=fields["kind"],
        event=fields["event"],
        session_id=fields["session_id"],
        received_at=datetime.fromtimestamp(fields["received_at"], UTC),
        signed_with=fields["signed_with"],
        signed_at=timestamp_or_none(fields["signed_at"]),
        headers=fields["headers"],
        body=None if fields["body_hex"] is None else bytes.fromhex(fields["body_hex"]),
        receipts=fields["receipts"],
        inbox=inbox,
    )


def _parse(text: bytes) -> dict[str, Any]:
    try:
        fields: dict[str, Any] = orjson.loads(text)
    except orjson.JSONDecodeError:  # headers may have half of a surrogate pair, which it refuses
        fields = json.loads(text)
    return fields


def _share_headers(deliveries: Sequence[dict[str, Any]]) -> None:
    """Share equal headers of successive deliveries: who converts them does it once."""
    before: dict[str, str] = {}
    for each in deliveries:
        if each["headers"] == before:
            each["headers"] = before
        else:
            before = each["headers"]


def _truncate(text: str) -> str:
    shown = "".join(character if character.isprintable() else "?" for character in text)
    return shown if len(shown) <= LONGEST_NAME else shown[: LONGEST_NAME - 1] + "…"
