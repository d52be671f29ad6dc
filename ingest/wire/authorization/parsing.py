"""Parse authorization requests of either wire format.

The fields of Plugsurfing's own format are not documented, so their places are settings. Those of OCPI are of version
2.2.1, https://github.com/ocpi/ocpi/blob/release-2.2.1-bugfixes/mod_tokens.asciidoc.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import parse_qs, unquote

from ingest.errors import Unreadable
from ingest.wire.authorization.request import AuthorizationRequest, WireFormat
from ingest.wire.field_paths import Pointer, pointers
from ingest.wire.json_documents import parse_json

OCPI_FOLDER = b"/ocpi/2.2.1/tokens/"
OCPI_END = b"/authorize"
DEFAULT_TOKEN_TYPE = "RFID"  # noqa: S105 - a kind of card
MAX_ID_LENGTH = 500


@dataclass(frozen=True, slots=True)
class FieldMap:
    """The pointers to each field of a body; the first that leads to a text or a whole number counts."""

    key: tuple[Pointer, ...]
    country_code: tuple[Pointer, ...] = ()
    reference_id: tuple[Pointer, ...] = ()
    location_id: tuple[Pointer, ...] = ()
    evse_ids: tuple[Pointer, ...] = ()
    session_id: tuple[Pointer, ...] = ()


OCPI_FIELDS = FieldMap(key=(), location_id=pointers("/location_id"), evse_ids=pointers("/evse_uids"))


def parse_request(  # noqa: PLR0913 - the parts of an HTTP request
    form: WireFormat, raw_path: bytes, query: bytes, body: bytes, *, fields: FieldMap, received_at: datetime
) -> tuple[AuthorizationRequest, bool]:
    """Parse a request of either format; return it, as far as it can be parsed, and whether it can be."""
    try:
        if form is WireFormat.OCPI:
            return parse_ocpi(raw_path, query, body, received_at), True
        return parse_plugsurfing(body, fields, received_at), True
    except Unreadable:
        return AuthorizationRequest(form, received_at), False


def parse_plugsurfing(body: bytes, fields: FieldMap, received_at: datetime) -> AuthorizationRequest:
    """Parse a request in Plugsurfing's format. Raise Unreadable if it is not a JSON object."""
    document = parse_json(body)
    if not isinstance(document, dict):
        raise Unreadable("The body is not a JSON object.")
    return _request(WireFormat.PLUGSURFING, document, fields, received_at, key=_text(document, fields.key))


def parse_ocpi(raw_path: bytes, query: bytes, body: bytes, received_at: datetime) -> AuthorizationRequest:
    """Parse a request in OCPI's format: the key is in the path, the body (LocationReferences) is optional.

    A body that cannot be parsed is ignored: the key alone may be enough to decide.
    """
    try:
        document = parse_json(body)
    except Unreadable:
        document = {}
    uid = unquote(raw_path.removeprefix(OCPI_FOLDER).rstrip(b"/").removesuffix(OCPI_END).decode("ascii", "replace"))
    types = parse_qs(query.decode("ascii", "replace")).get("type", ())
    return _request(
        WireFormat.OCPI,
        document if isinstance(document, dict) else {},
        OCPI_FIELDS,
        received_at,
        key=_scalar_text(uid),
        token_type=next(filter(None, map(_scalar_text, types)), DEFAULT_TOKEN_TYPE),
    )


def _request(  # noqa: PLR0913 - what differs between the formats
    form: WireFormat,
    document: Mapping[str, Any],
    fields: FieldMap,
    received_at: datetime,
    *,
    key: str | None,
    token_type: str | None = None,
) -> AuthorizationRequest:
    return AuthorizationRequest(
        form=form,
        received_at=received_at,
        key=key,
        token_type=token_type,
        country_code=_text(document, fields.country_code),
        reference_id=_text(document, fields.reference_id),
        location_id=_text(document, fields.location_id),
        evse_ids=_texts(document, fields.evse_ids),
        session_id=_text(document, fields.session_id),
        document=document,
    )


def _text(document: Mapping[str, Any], places: Iterable[Pointer]) -> str | None:
    return next((text for place in places if (text := _scalar_text(place.find(document))) is not None), None)


def _texts(document: Mapping[str, Any], places: Iterable[Pointer]) -> tuple[str, ...]:
    for place in places:
        found = place.find(document)
        texts = [text for each in (found if isinstance(found, list) else [found]) if (text := _scalar_text(each))]
        if texts:
            return tuple(texts)
    return ()


def _scalar_text(value: Any) -> str | None:
    """Return a text, or a whole number as text, that can be an identifier: not empty, printable, of bounded length."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value) if abs(value).bit_length() < MAX_ID_LENGTH else ""
    if not isinstance(value, str) or len(value) > MAX_ID_LENGTH:
        return None
    text = value.strip()
    return text if text and text.isprintable() else None
