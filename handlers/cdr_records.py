"""Store one record of every CDR: the document as received, and the fields whose places are settings."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any

from handlers import Context, on
from handlers.kit.cdr_table import UPSERT, CdrNote
from handlers.kit.field_extraction import (
    FieldValue,
    first_valid,
    parse_currency,
    parse_decimal,
    parse_key,
    parse_text,
    parse_user_id,
)
from ingest.events import ChargingRecord, is_cdr, sanitize_text
from ingest.wire.field_paths import HeaderPath, find
from ingest.wire.json_documents import array_texts, canonical_json, canonical_number, json_text
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

Fields = Mapping[str, FieldValue[Any]]


@on(ChargingRecord)
def cdr_record(event: ChargingRecord, ctx: Context) -> None:
    """Upsert a record for each CDR of the body; what cannot be parsed is in its notes, without the value."""
    body = json_text(ctx.delivery.body or b"")
    is_array = body.lstrip().startswith("[")
    texts = array_texts(body) if is_array else [body]
    for position, (document, text) in enumerate(zip(event.documents, texts, strict=True)):
        fields = _fields(document, ctx, position if is_array else None) if is_cdr(document) else {}
        notes = list(map(str, _notes(fields)))
        if notes:
            ctx.log.warning("cdr.partly_parsed", position=position, notes=notes)
        row = {name: fields[name].value if fields else None for name in FIELDS}
        ctx.write(
            UPSERT,
            {
                "delivery_id": ctx.delivery.id,
                "position": position,
                **row,
                "identity": row["request_id"] or _digest(canonical_json(text)),
                "content": _content(fields, text),
                "notes": notes,
                "document": sanitize_text(text),
                "received_at": ctx.delivery.received_at,
                "recorded_at": ctx.now(),
            },
        )


def _fields(document: Mapping[str, Any], ctx: Context, position: int | None) -> Fields:
    return {
        name: first_valid(_found(document, ctx, setting, position), parse) for name, (setting, parse) in FIELDS.items()
    }


def _found(document: Mapping[str, Any], ctx: Context, setting: str, position: int | None) -> Iterator[Any]:
    for place in getattr(ctx.settings, setting):
        found = find(place, document, ctx.delivery.headers)
        # A header is that of the whole request: it names each CDR of an array only together with its position.
        yield f"{found}/{position}" if found and position is not None and isinstance(place, HeaderPath) else found


def _notes(fields: Fields) -> Iterator[str]:
    if not fields:
        yield CdrNote.NOT_A_CDR
        return
    if fields["request_id"].value is None:
        yield CdrNote.NO_REQUEST_ID
    yield from (f"{name} {field.problem}" for name, field in fields.items() if field.problem)
    values = {name: field.value for name, field in fields.items()}
    amount, energy, started_at, ended_at = map(values.get, ("amount", "energy_kwh", "started_at", "ended_at"))
    if amount is None and not fields["amount"].problem:
        yield CdrNote.NO_AMOUNT
    if amount is not None and fields["currency"] == FieldValue(None):
        yield CdrNote.NO_CURRENCY
    if amount is not None and amount < 0:
        yield CdrNote.NEGATIVE_AMOUNT
    if energy is not None and energy < 0:
        yield CdrNote.NEGATIVE_ENERGY
    if started_at is not None and ended_at is not None and ended_at < started_at:
        yield CdrNote.ENDS_BEFORE_START


def _content(fields: Fields, text: str) -> str:
    """Return a digest that is equal for CDRs that say the same: in all fields that are read, and in nothing else.

    A value that cannot be parsed counts as it was written. Where nothing is read, all of the document counts.
    """
    said = {name: _canonical(field) for name, field in fields.items() if name != "request_id"}
    return _digest(json.dumps(said) if any(said.values()) else canonical_json(text))


def _canonical(field: FieldValue[Any]) -> str | None:
    match field.value:
        case Decimal():
            return canonical_number(field.value)
        case datetime():
            return field.value.isoformat()
        case None:
            return None if field.found is None else f"?{_written(field.found)}"
        case _:
            return str(field.value)


def _written(found: Any) -> str:
    try:
        return canonical_json(json.dumps(found, default=str))
    except RecursionError:
        return "nested"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]
