"""Store one record of every CDR: the document as received, and the fields whose places are settings."""

from collections.abc import Callable, Iterator
from typing import Any

from handlers import Context, on
from handlers.kit.cdr_table import UPSERT
from handlers.kit.field_extraction import (
    first_valid,
    parse_currency,
    parse_decimal,
    parse_key,
    parse_text,
    parse_user_id,
)
from ingest.events import ChargingRecord, sanitize_text
from ingest.wire.field_paths import find
from ingest.wire.json_documents import json_text
from ingest.wire.timestamps import parse_timestamp

#: By column: the setting with the places, and the parser of what is found there.
FIELDS: dict[str, tuple[str, Callable[[Any], object]]] = {
    "request_id": ("cdr_request_id", parse_text),
    "session_id": ("cdr_session", parse_text),
    "user_id": ("cdr_user", parse_user_id),
    "charging_key": ("cdr_charging_key", parse_key),
    "amount": ("cdr_amount", parse_decimal),
    "currency": ("cdr_currency", parse_currency),
    "energy_kwh": ("cdr_energy", parse_decimal),
    "started_at": ("cdr_started_at", parse_timestamp),
    "ended_at": ("cdr_ended_at", parse_timestamp),
    "location": ("cdr_location", parse_text),
    "operator": ("cdr_operator", parse_text),
}
MISSING_REQUEST_ID = "has no request id: the digest of its bytes is used instead"


@on(ChargingRecord)
def cdr_record(event: ChargingRecord, ctx: Context) -> None:
    """Upsert the record; fields that cannot be parsed are listed in its notes, without their values."""
    fields = {name: first_valid(_found(event, ctx, setting), parse) for name, (setting, parse) in FIELDS.items()}
    notes = [f"{name} {problem}" for name, (_, problem) in fields.items() if problem]
    if notes:
        ctx.log.warning("cdr.partly_parsed", notes=notes)
    if fields["request_id"][0] is None:
        notes.insert(0, MISSING_REQUEST_ID)
        ctx.log.warning("cdr.request_id_missing", reason=MISSING_REQUEST_ID)
    ctx.write(
        UPSERT,
        {
            "delivery_id": ctx.delivery.id,
            **{name: value for name, (value, _) in fields.items()},
            "notes": notes,
            "document": sanitize_text(json_text(ctx.delivery.body or b"")),
            "received_at": ctx.delivery.received_at,
            "recorded_at": ctx.now(),
        },
    )


def _found(event: ChargingRecord, ctx: Context, setting: str) -> Iterator[Any]:
    return (find(place, event.document, ctx.delivery.headers) for place in getattr(ctx.settings, setting))
