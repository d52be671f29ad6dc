"""Build requests to the Drive API and Roam OCPI, with every id percent-encoded; pure."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum
from typing import Any, TypedDict, Unpack
from urllib.parse import quote, urlencode

from workers.drive.drive_errors import NotFound
from workers.drive.models import ALL_STATUSES, RoamToken

MAX_SEGMENT = 8_000
"""Characters of an encoded id: servers refuse longer URLs."""

MAX_NAME = 100
"""Characters of a fleet's id and of its name (Drive API)."""

MIN_PAGE_SIZE, MAX_PAGE_SIZE = 10, 500
"""Charging keys in one page (Drive API)."""

PLACEHOLDER = re.compile(r"\{fleet_(?:id|name)\}")


class Service(Enum):
    """The service that a request is for."""

    DRIVE = "The Drive API"
    """Plugsurfing's Drive API; its calls are rate limited."""
    ROAM = "Roam OCPI"
    """The token module of Roam OCPI."""


@dataclass(frozen=True)
class Request:
    """A request; `path` is appended to the service's URL. Its `repr` shows no id."""

    description: str
    thing: str
    method: str
    path: str = field(repr=False)
    body: bytes | None = field(default=None, repr=False)
    service: Service = Service.DRIVE
    is_read: bool = True
    """It changes nothing, so it may be retried. The request for a history is a POST, and a read."""
    setting: str = "DRIVE_API_URL"
    """The setting to check when the response is 404."""


class HistoryFilters(TypedDict, total=False):
    """The filters of a history: by default ALL_STATUSES; both times bound the start of a session, inclusive."""

    statuses: Sequence[str]
    charging_key_id: str | None
    started_from: datetime | None
    started_until: datetime | None


def session(user_id: str, session_id: str) -> Request:
    """Return the request for one session."""
    path = f"/v1/users/{encode_segment(user_id)}/sessions/{encode_segment(session_id)}"
    return Request("read a session", "session", "GET", path)


def history(user_id: str, *, cursor: str | None = None, **filters: Unpack[HistoryFilters]) -> Request:
    """Return the request for a page of a user's sessions."""
    since, until = filters.get("started_from"), filters.get("started_until")
    fields = {
        "sessionStatus": list(filters.get("statuses", ALL_STATUSES)),
        "chargingKeyId": filters.get("charging_key_id"),
        "startTime": since and _utc(since),
        "endTime": until and _utc(until),
        "cursor": cursor,
    }
    body = {name: value for name, value in fields.items() if value is not None}
    return Request(
        "read a history", "user", "POST", f"/v1/users/{encode_segment(user_id)}/sessions/history", _body(body)
    )


def charging_keys(fleet_id: str | None, *, page_size: int, cursor: str | None = None) -> Request:
    """Return the request for a page of charging keys. Raise ValueError unless it has 10 to 500."""
    if not MIN_PAGE_SIZE <= page_size <= MAX_PAGE_SIZE:
        raise ValueError(f"A page has {MIN_PAGE_SIZE} to {MAX_PAGE_SIZE} charging keys.")
    fields = {
        "fleetId": fleet_id and _checked_text(fleet_id),
        "cursor": cursor and _checked_text(cursor),
        "page_size": str(page_size),
    }
    query = urlencode({name: value for name, value in fields.items() if value}, quote_via=quote, safe="")
    return Request("read charging keys", "fleet", "GET", f"/emp/v1/charging-keys?{query}")


def create_fleet(fleet_id: str, name: str | None) -> Request:
    """Return the request that creates a fleet. Raise ValueError for an id or a name that is empty or too long."""
    body = {"fleetId": _checked_name(fleet_id, "id")} | (
        {"fleetName": _checked_name(name, "name")} if name is not None else {}
    )
    return Request("create a fleet", "fleet", "POST", "/emp/v1/fleets", _body(body), is_read=False)


def rename_fleet(fleet_id: str, name: str, template: str) -> Request:
    """Return the request that renames a fleet; its body is not documented, so it comes from a template."""
    values = {"{fleet_id}": fleet_id, "{fleet_name}": _checked_name(name, "name")}
    path = f"/emp/v1/fleets/{encode_segment(fleet_id)}/rename"
    body = _body(_fill(json.loads(template), values))
    return Request("rename a fleet", "fleet", "PUT", path, body, is_read=False)


def invitation(fleet_id: str) -> Request:
    """Return the request for the active invitation codes of a fleet."""
    return Request("read an invitation", "fleet", "GET", f"/emp/v1/fleets/{encode_segment(fleet_id)}/invitation")


def balance(user_id: str, path: str) -> Request:
    """Return the request for a user's prepaid balance; its path is a setting."""
    path = path.replace("{user_id}", encode_segment(user_id))
    return Request("read a balance", "user", "GET", path, setting="DRIVE_BALANCE_PATH")


def location(location_id: str, path: str) -> Request:
    """Return the request for a location; its path is a setting."""
    path = path.replace("{location_id}", encode_segment(location_id))
    return Request("read a location", "location", "GET", path, setting="DRIVE_LOCATION_PATH")


def push_token(token: RoamToken, now: datetime) -> Request:
    """Return the request that creates or updates a token (OCPI 2.2.1, 12.2.2.2)."""
    segments = map(encode_segment, (token.country_code, token.party_id, token.uid))
    path = f"/{'/'.join(segments)}?{urlencode({'type': token.type})}"
    body = token.model_dump(mode="json", exclude={"document"}, exclude_none=True) | {"last_updated": _utc(now)}
    return Request(
        "push a token", "token", "PUT", path, _body(body), Service.ROAM, is_read=False, setting="ROAM_OCPI_URL"
    )


def encode_segment(text: str) -> str:
    """Return any text as one path segment. Raise NotFound if it cannot be one."""
    if not text:
        raise NotFound("The Drive API has no object with an empty id.")
    # Unencoded, one or two dots would be resolved as folders.
    encoded = quote(_checked_text(text), safe="") if text.strip(".") or len(text) > 2 else "%2E" * len(text)  # noqa: PLR2004
    if len(encoded) > MAX_SEGMENT:
        raise NotFound("The Drive API has no object with an id that is too long for a URL.")
    return encoded


def _checked_text(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise NotFound("The Drive API has no object with an id that is not valid Unicode.") from None
    return text


def _checked_name(text: str, kind: str) -> str:
    if not 0 < len(text) <= MAX_NAME:
        raise ValueError(f"The {kind} of a fleet has 1 to {MAX_NAME} characters.")
    return _checked_text(text)


def _fill(template: Any, values: Mapping[str, str]) -> Any:
    """Replace the placeholders in the strings of a document; no value can change its structure."""
    match template:
        case dict():
            return {name: _fill(value, values) for name, value in template.items()}
        case list():
            return [_fill(value, values) for value in template]
        case str():
            return PLACEHOLDER.sub(lambda found: values[found[0]], template)
        case _:
            return template


def _utc(at: datetime) -> str:
    if at.tzinfo is None:
        raise ValueError("A time needs a time zone.")
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _body(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()
