"""Keep one record of every CDR: the document as it came, and the fields that settings tell where to find."""

from collections.abc import Callable, Iterator
from typing import Any

from handlers import Context, on
from handlers.kit.cdr_table import UPSERT
from handlers.kit.decimals import read_decimal
from handlers.kit.field_extraction import first_valid, read_currency, read_key, read_text, read_user_id
from ingest.events import ChargingRecord, sanitize_text
from ingest.wire.field_paths import find
from ingest.wire.json_documents import json_text
from ingest.wire.timestamps import parse_timestamp

#: By column: the setting that tells the places, and how what is found there is read.
FIELDS: dict[str, tuple[str, Callable[[Any], object]]] = {
    "request_id": ("cdr_request_id", read_text),
    "session_id": ("cdr_session", read_text),
    "user_id": ("cdr_user", read_user_id),
    "charging_key": ("cdr_charging_key", read_key),
    "amount": ("cdr_amount", read_decimal),
    "currency": ("cdr_currency", read_currency),
    "energy_kwh": ("cdr_energy", read_decimal),
    "started_at": ("cdr_started_at", parse_timestamp),
    "ended_at": ("cdr_ended_at", parse_timestamp),
    "location": ("cdr_location", read_text),
    "operator": ("cdr_operator", read_text),
}
MISSING_REQUEST_ID = "has no request id: the digest of its bytes stands in"


@on(ChargingRecord)
def cdr_record(event: ChargingRecord, ctx: Context) -> None:
    """Write the record; what could not be read of it is noted there, without its value."""
    picked = {name: first_valid(_found(event, ctx, setting), read) for name, (setting, read) in FIELDS.items()}
    notes = [f"{name} {problem}" for name, (_, problem) in picked.items() if problem]
    if notes:
        ctx.log.warning("cdr.read_in_part", notes=notes)
    if picked["request_id"][0] is None:
        notes.insert(0, MISSING_REQUEST_ID)
        ctx.log.warning("cdr.not_named", reason=MISSING_REQUEST_ID)
    ctx.write(
        UPSERT,
        {
            "delivery_id": ctx.delivery.id,
            **{name: value for name, (value, _) in picked.items()},
            "notes": notes,
            "document": sanitize_text(json_text(ctx.delivery.body or b"")),
            "received_at": ctx.delivery.received_at,
            "recorded_at": ctx.now(),
        },
    )


def _found(event: ChargingRecord, ctx: Context, setting: str) -> Iterator[Any]:
    return (find(place, event.document, ctx.delivery.headers) for place in getattr(ctx.settings, setting))
