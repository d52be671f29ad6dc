"""Builds what the Drive API and Roam OCPI are asked: pure, with every id percent-encoded, whatever it is made of."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum
from typing import Any
from urllib.parse import quote, urlencode

from workers.drive.errors import NotFound
from workers.drive.models import RoamToken

LONGEST_SEGMENT = 8_000
"""Signs of an encoded id: more fit into no URL that servers take."""

LONGEST_NAME = 100
"""Signs of a fleet's id and of its name (Drive API)."""

MIN, MAX_PAGE_SIZE = 10, 500
"""Charging keys in one page (Drive API)."""

PLACEHOLDER = re.compile(r"\{fleet_(?:id|name)\}")


class Service(Enum):
    """Whom a request is for."""

    DRIVE = "The Drive API"
    """Plugsurfing's Drive API; its calls are counted."""
    ROAM = "Roam OCPI"
    """The module `tokens` of Roam OCPI."""


@dataclass(frozen=True)
class Request:
    """One call: `path` follows the service's URL, and what is shown of a call has no id in it."""

    description: str
    thing: str
    method: str
    path: str = field(repr=False)
    body: bytes | None = field(default=None, repr=False)
    service: Service = Service.DRIVE
    is_read: bool = True
    """Nothing changes by it, so it may be tried again. To ask for a history is a POST, and reads all the same."""
    setting: str = "DRIVE_API_URL"
    """What may be wrong if it is not found."""


def session(user_id: str, session_id: str) -> Request:
    """Ask for one session."""
    path = f"/v1/users/{encode_segment(user_id)}/sessions/{encode_segment(session_id)}"
    return Request("read a session", "session", "GET", path)


def history(  # noqa: PLR0913  what the Drive API can be asked for
    user_id: str,
    *,
    statuses: Sequence[str],
    charging_key_id: str | None = None,
    started_from: datetime | None = None,
    started_until: datetime | None = None,
    cursor: str | None = None,
) -> Request:
    """Ask for a page of a user's sessions."""
    wanted = {
        "sessionStatus": list(statuses),
        "chargingKeyId": charging_key_id,
        "startTime": started_from and _utc(started_from),
        "endTime": started_until and _utc(started_until),
        "cursor": cursor,
    }
    body = {name: value for name, value in wanted.items() if value is not None}
    return Request(
        "read a history", "user", "POST", f"/v1/users/{encode_segment(user_id)}/sessions/history", _body(body)
    )


def charging_keys(fleet_id: str | None, *, page_size: int, cursor: str | None = None) -> Request:
    """Ask for a page of charging keys. Raise ValueError unless it has 10 to 500."""
    if not MIN <= page_size <= MAX_PAGE_SIZE:
        raise ValueError(f"A page has {MIN} to {MAX_PAGE_SIZE} charging keys.")
    wanted = {"fleetId": fleet_id and _text(fleet_id), "cursor": cursor and _text(cursor), "page_size": str(page_size)}
    query = urlencode({name: value for name, value in wanted.items() if value}, quote_via=quote, safe="")
    return Request("read charging keys", "fleet", "GET", f"/emp/v1/charging-keys?{query}")


def create_fleet(fleet_id: str, name: str | None) -> Request:
    """Ask for a new fleet. Raise ValueError for an id or a name that is too long."""
    body = {"fleetId": _short(fleet_id, "id")} | ({"fleetName": _short(name, "name")} if name is not None else {})
    return Request("create a fleet", "fleet", "POST", "/emp/v1/fleets", _body(body), is_read=False)


def rename_fleet(fleet_id: str, name: str, template: str) -> Request:
    """Ask for another name; the body is written from a template, as it is not documented."""
    known = {"{fleet_id}": fleet_id, "{fleet_name}": _short(name, "name")}
    path = f"/emp/v1/fleets/{encode_segment(fleet_id)}/rename"
    body = _body(_filled(json.loads(template), known))
    return Request("rename a fleet", "fleet", "PUT", path, body, is_read=False)


def invitation(fleet_id: str) -> Request:
    """Ask for the active invitation codes of a fleet."""
    return Request("read an invitation", "fleet", "GET", f"/emp/v1/fleets/{encode_segment(fleet_id)}/invitation")


def balance(user_id: str, path: str) -> Request:
    """Ask for a user's prepaid balance, where a setting says it is."""
    path = path.replace("{user_id}", encode_segment(user_id))
    return Request("read a balance", "user", "GET", path, setting="DRIVE_BALANCE_PATH")


def location(location_id: str, path: str) -> Request:
    """Ask for a location, where a setting says it is."""
    path = path.replace("{location_id}", encode_segment(location_id))
    return Request("read a location", "location", "GET", path, setting="DRIVE_LOCATION_PATH")


def push_token(token: RoamToken, now: datetime) -> Request:
    """Put a token (OCPI 2.2.1, 12.2.2.2); of the whitelists, Roam tells NEVER from all others only."""
    path = "/".join(("", encode_segment(token.country_code), encode_segment(token.party_id), encode_segment(token.uid)))
    body = token.model_dump(mode="json", exclude={"document"}, exclude_none=True) | {"last_updated": _utc(now)}
    query = urlencode({"type": token.type})
    return Request(
        "push a token",
        "token",
        "PUT",
        f"{path}?{query}",
        _body(body),
        Service.ROAM,
        is_read=False,
        setting="ROAM_OCPI_URL",
    )


def encode_segment(text: str) -> str:
    """Write any text as one segment of a path. Raise NotInDrive for what can be none: it is not asked for."""
    if not text:
        raise NotFound("An empty id is not in the Drive API.")
    # No server takes one or two dots for the folders that they mean elsewhere.
    encoded = quote(_text(text), safe="") if text.strip(".") or len(text) > 2 else "%2E" * len(text)  # noqa: PLR2004
    if len(encoded) > LONGEST_SEGMENT:
        raise NotFound("An id that is too long for a URL is not in the Drive API.")
    return encoded


def _text(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise NotFound("An id that is no Unicode text is not in the Drive API.") from None
    return text


def _short(text: str, what: str) -> str:
    if not 0 < len(text) <= LONGEST_NAME:
        raise ValueError(f"The {what} of a fleet has 1 to {LONGEST_NAME} signs.")
    return _text(text)


def _filled(template: Any, known: Mapping[str, str]) -> Any:
    """Put what is known in the place of its name, in the texts of a document: no value can change its form."""
    match template:
        case dict():
            return {name: _filled(value, known) for name, value in template.items()}
        case list():
            return [_filled(value, known) for value in template]
        case str():
            return PLACEHOLDER.sub(lambda found: known[found[0]], template)
        case _:
            return template


def _utc(at: datetime) -> str:
    if at.tzinfo is None:
        raise ValueError("A time without a zone is none.")
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _body(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()
