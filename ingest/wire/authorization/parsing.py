"""Read a question in either form it has on the wire: bytes in, question out.

Which fields Plugsurfing's own form has is not documented, so their places are settings; those of OCPI are its
version 2.2.1's, https://github.com/ocpi/ocpi/blob/release-2.2.1-bugfixes/mod_tokens.asciidoc.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import parse_qs, unquote

from ingest.errors import Unreadable
from ingest.wire.authorization.request import AuthorizationRequest, WireFormat
from ingest.wire.json_documents import parse_json
from ingest.wire.json_pointers import Pointer, pointers

OCPI_FOLDER = b"/ocpi/2.2.1/tokens/"
OCPI_END = b"/authorize"
DEFAULT_TOKEN_TYPE = "RFID"  # noqa: S105 - a kind of card
LONGEST_ID = 500


@dataclass(frozen=True, slots=True)
class FieldMap:
    """Where a body says what: of several pointers the first that leads to a text, or a number, counts."""

    key: tuple[Pointer, ...]
    country_code: tuple[Pointer, ...] = ()
    reference_id: tuple[Pointer, ...] = ()
    location_id: tuple[Pointer, ...] = ()
    evse_ids: tuple[Pointer, ...] = ()
    session_id: tuple[Pointer, ...] = ()


OCPI_PLACES = FieldMap(key=(), location_id=pointers("/location_id"), evse_ids=pointers("/evse_uids"))


def parse_plugsurfing(body: bytes, places: FieldMap, received_at: datetime) -> AuthorizationRequest:
    """Read Plugsurfing's form. Raise Unreadable if it is no JSON object: nothing is known then."""
    document = parse_json(body)
    if not isinstance(document, dict):
        raise Unreadable("The body is not a JSON object.")
    return _question(WireFormat.PLUGSURFING, document, places, received_at, key=_text(document, places.key))


def parse_ocpi(raw_path: bytes, query: bytes, body: bytes, received_at: datetime) -> AuthorizationRequest:
    """Read OCPI's form: the key is in the path, and a body, the LocationReferences, need not be there.

    A body that cannot be understood counts as none: the key alone may be enough to decide.
    """
    try:
        read = parse_json(body)
    except Unreadable:
        read = {}
    uid = unquote(raw_path.removeprefix(OCPI_FOLDER).rstrip(b"/").removesuffix(OCPI_END).decode("ascii", "replace"))
    types = parse_qs(query.decode("ascii", "replace")).get("type", ())
    return _question(
        WireFormat.OCPI,
        read if isinstance(read, dict) else {},
        OCPI_PLACES,
        received_at,
        key=_scalar_text(uid),
        token_type=next(filter(None, map(_scalar_text, types)), DEFAULT_TOKEN_TYPE),
    )


def _question(  # noqa: PLR0913 - what differs between the forms
    form: WireFormat,
    document: Mapping[str, Any],
    places: FieldMap,
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
        country_code=_text(document, places.country_code),
        reference_id=_text(document, places.reference_id),
        location_id=_text(document, places.location_id),
        evse_ids=_texts(document, places.evse_ids),
        session_id=_text(document, places.session_id),
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
    """Take a text, or a whole number, that can be an identifier: a policy need not think of what else there is."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value) if abs(value).bit_length() < LONGEST_ID else ""
    if not isinstance(value, str) or len(value) > LONGEST_ID:
        return None
    text = value.strip()
    return text if text and text.isprintable() else None
