"""Ask at the charger as Plugsurfing does: a question in either form, written as a request."""

import json
from base64 import b64encode
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from ingest.config.settings import Settings
from ingest.wire.authorization.parsing import DEFAULT_TOKEN_TYPE, OCPI_END, OCPI_FOLDER
from ingest.wire.json_pointers import Pointer

SOME_KEY = "04A1B2C3D4E580"


@dataclass(frozen=True)
class SimulatedAuthorizationRequest:
    """A question as it is sent."""

    path: str
    headers: Mapping[str, str]
    body: bytes


def plugsurfing_request(
    settings: Settings, parts: Mapping[str, str], credentials: str
) -> SimulatedAuthorizationRequest:
    """Write Plugsurfing's form: each part stands where the first pointer of its setting says, `key` of AUTHORIZE_KEY.

    Parts are `key`, `session`, `location`, `reference` and `country`.
    """
    document: dict[str, Any] = {}
    for name, value in parts.items():
        _put(document, getattr(settings, f"authorize_{name}"), value)
    return SimulatedAuthorizationRequest(
        "/plugsurfing/authorizations", _headers(credentials), json.dumps(document).encode()
    )


def ocpi_request(parts: Mapping[str, str], credentials: str) -> SimulatedAuthorizationRequest:
    """Write OCPI's form: it knows the key and the location, and no more."""
    uid = quote(parts["key"], safe="")
    path = f"{OCPI_FOLDER.decode()}{uid}{OCPI_END.decode()}?type={DEFAULT_TOKEN_TYPE}"
    body = {"location_id": parts["location"]} if "location" in parts else {}
    return SimulatedAuthorizationRequest(
        path, _headers(f"Token {b64encode(credentials.encode()).decode()}"), json.dumps(body).encode()
    )


def _headers(authorization: str) -> dict[str, str]:
    return {"content-type": "application/json", "authorization": authorization}


def _put(document: dict[str, Any], places: Iterable[Pointer], value: str) -> None:
    """Put a value where the first pointer leads to, with the objects on the way there."""
    place = next(iter(places), None)
    if place is None:
        return
    *way, last = (part.replace("~1", "/").replace("~0", "~") for part in place.text.split("/")[1:] or [""])
    for part in way:
        document = document.setdefault(part, {})
    document[last] = value
