"""Build authorization requests as Plugsurfing sends them, in either wire format."""

import json
from base64 import b64encode
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote

from ingest.config.settings import Settings
from ingest.simulator.requests import HttpRequest
from ingest.wire.authorization.parsing import DEFAULT_TOKEN_TYPE, OCPI_END, OCPI_FOLDER
from ingest.wire.field_paths import Pointer

DEFAULT_KEY = "04A1B2C3D4E580"


def plugsurfing_request(settings: Settings, parts: Mapping[str, str], credentials: str) -> HttpRequest:
    """Return a request in Plugsurfing's format, each part at the first pointer of its setting, such as AUTHORIZE_KEY.

    Parts are `key`, `session`, `location`, `reference` and `country`.
    """
    document: dict[str, Any] = {}
    for name, value in parts.items():
        _set(document, getattr(settings, f"authorize_{name}"), value)
    return HttpRequest("/plugsurfing/authorizations", _headers(credentials), json.dumps(document).encode())


def ocpi_request(parts: Mapping[str, str], credentials: str) -> HttpRequest:
    """Return a request in OCPI's format, which has the parts `key` and `location` only."""
    uid = quote(parts["key"], safe="")
    path = f"{OCPI_FOLDER.decode()}{uid}{OCPI_END.decode()}?type={DEFAULT_TOKEN_TYPE}"
    body = {"location_id": parts["location"]} if "location" in parts else {}
    headers = _headers(f"Token {b64encode(credentials.encode()).decode()}")
    return HttpRequest(path, headers, json.dumps(body).encode())


def _headers(authorization: str) -> dict[str, str]:
    return {"content-type": "application/json", "authorization": authorization}


def _set(document: dict[str, Any], pointers: Iterable[Pointer], value: str) -> None:
    """Set a value at the first pointer, creating the objects on the way."""
    pointer = next(iter(pointers), None)
    if pointer is None:
        return
    *objects, last = (part.replace("~1", "/").replace("~0", "~") for part in pointer.text.split("/")[1:] or [""])
    for name in objects:
        document = document.setdefault(name, {})
    document[last] = value
