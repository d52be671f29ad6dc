"""Deliveries that travel together: one batch is one RQ job, its deliveries lie in a Redis key beside the job.

inbox -> relay -> [batch] -> process -> handler -> ledger
"""

import json
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

LONGEST_NAME = 64
MOST_NAMES = 20
LONGEST_DESCRIPTION = 200


@dataclass(frozen=True, slots=True)
class Delivery:
    """An envelope once kept. Without a body it only tells that a delivery, known by its id, came again."""

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


@dataclass(frozen=True, slots=True)
class Batch:
    """What one RQ job works on; the job's id is the batch's."""

    id: str
    inbox: str
    queue: str
    deliveries: tuple[Delivery, ...]
    isolated: bool = False
    """Alone in its batch because workers died of batches that it was in."""
    poison: bool = False
    """Died alone too often: to be buried, not handled."""

    @classmethod
    def from_json(cls, text: bytes) -> "Batch":
        """Read a batch that `write_batch` wrote."""
        fields: dict[str, Any] = json.loads(text)
        inbox = fields["inbox"]
        return cls(
            id=fields["id"],
            inbox=inbox,
            queue=fields["queue"],
            deliveries=tuple(
                Delivery(
                    id=each["id"],
                    kind=each["kind"],
                    event=each["event"],
                    session_id=each["session_id"],
                    received_at=datetime.fromtimestamp(each["received_at"], UTC),
                    signed_with=each["signed_with"],
                    signed_at=timestamp_or_none(each["signed_at"]),
                    headers=each["headers"],
                    body=None if each["body_hex"] is None else bytes.fromhex(each["body_hex"]),
                    receipts=each["receipts"],
                    inbox=inbox,
                )
                for each in fields["deliveries"]
            ),
            isolated=fields["solo"],
            poison=fields["poison"],
        )


def encode_batch(  # noqa: PLR0913 - the fields of a batch, by name
    batch_id: str, *, inbox: str, queue: str, deliveries: bytes, isolated: bool, poison: bool
) -> bytes:
    """Write a batch for Redis, around the JSON of its deliveries (see `ingest.relay.outbox`)."""
    fields = {"id": batch_id, "inbox": inbox, "queue": queue, "solo": isolated, "poison": poison}
    return json.dumps(fields).encode()[:-1] + b', "deliveries": ' + deliveries + b"}"


def description(names: Sequence[tuple[str, bool]], session_id: str | None) -> str:
    """Say in one line, for the people at the dashboard, what the job is about.

    Of each delivery it is told what it is called, and whether it only tells that it came again.
    """
    if len(names) == 1:
        ((name, again),) = names
        return " ".join(filter(None, ("repeat of" if again else "", _truncate(name), _truncate(session_id or ""))))
    counts = Counter("repeat" if again else name for name, again in names)
    named = ", ".join(f"{count} {_truncate(name)}" for name, count in counts.most_common(MOST_NAMES))
    text = f"{len(names)} deliveries: {named}"
    return text if len(text) <= LONGEST_DESCRIPTION else text[: LONGEST_DESCRIPTION - 1] + "…"


def new_batch_id() -> str:
    """Make a batch's id: an id that RQ takes for a job (letters, digits, dashes, underscores)."""
    return uuid.uuid4().hex


def batch_key(batch_id: str) -> str:
    """Name the Redis key that holds the batch's deliveries until it is acknowledged."""
    return f"webhooks:batch:{batch_id}"


def ack_key(inbox_id: str) -> str:
    """Name the Redis list on which workers acknowledge an inbox's batches, by id."""
    return f"webhooks:settled:{inbox_id}"


def lease_key(job_id: str) -> str:
    """Name the Redis counter that beats while somebody works on the job."""
    return f"webhooks:lease:{job_id}"


def timestamp_or_none(epoch: float | None) -> datetime | None:
    """Read seconds since 1970; None for what no calendar has, as a sender may claim any moment of signing."""
    try:
        return None if epoch is None else datetime.fromtimestamp(epoch, UTC)
    except (ValueError, OverflowError, OSError):
        return None


def _truncate(text: str) -> str:
    shown = "".join(character if character.isprintable() else "?" for character in text)
    return shown if len(shown) <= LONGEST_NAME else shown[: LONGEST_NAME - 1] + "…"
