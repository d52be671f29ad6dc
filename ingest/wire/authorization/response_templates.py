"""Templates of authorization responses: JSON with placeholders, set by settings because the fields are not documented.

A text that is one of PLACEHOLDERS, such as `"@allowed"`, is replaced by its value. A member without a value is omitted.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any

from ingest.wire.authorization.request import MAX_MESSAGE_LENGTH, Allowed, AuthorizationRequest, Decision, WireFormat

PLACEHOLDERS = (
    *("@allowed", "@valid", "@information", "@id", "@now"),  # of the decision
    *("@key", "@token_type", "@country_code", "@reference_id", "@location_id", "@session_id"),  # of the request
    *("@info", "@location"),  # OCPI's DisplayText and LocationReferences
)
OCPI_SUCCESS = 1000
OCPI_CLIENT_ERROR = 2000
OMIT = object()


@dataclass(frozen=True)
class ResponseTemplate:
    """The template of a response. Raises ValueError for an invalid one."""

    text: str

    def __post_init__(self) -> None:
        """Require a JSON object that contains the decision and no unknown placeholder."""
        try:
            found = set(_placeholders(self.document)) if isinstance(self.document, dict) else set()
        except (ValueError, RecursionError):
            found = set()
        if "@allowed" not in found:
            raise ValueError('must be a JSON object with the text "@allowed" in it')
        unknown = sorted(found.difference(PLACEHOLDERS))
        if unknown:
            raise ValueError(f"has the unknown placeholder {unknown[0]}; there are {', '.join(PLACEHOLDERS)}")

    def __str__(self) -> str:
        """Return the text as in the setting."""
        return self.text

    @cached_property
    def document(self) -> Any:
        """The decoded JSON."""
        return json.loads(self.text)

    def fill(self, values: Mapping[str, Any]) -> Any:
        """Replace the placeholders by their values."""
        return _render(self.document, values)


def placeholder_values(
    request: AuthorizationRequest, decision: Decision, *, reference: str, at: datetime, language: str
) -> dict[str, Any]:
    """Return the values of all placeholders for one response; None for those without a value."""
    valid = decision.allowed is Allowed.ALLOWED
    information = (decision.information or "").strip()[:MAX_MESSAGE_LENGTH] or None
    location = {"location_id": request.location_id, "evse_uids": list(request.evse_ids)}
    return {
        "@allowed": decision.allowed.value,
        "@information": information,
        "@id": reference,
        "@key": request.key,
        "@token_type": request.token_type,
        "@country_code": request.country_code,
        "@reference_id": request.reference_id,
        "@location_id": request.location_id,
        "@session_id": request.session_id,
        "@valid": valid,
        "@now": ocpi_time(at),
        "@info": information and {"language": language, "text": information},
        "@location": {name: value for name, value in location.items() if value}
        if valid and request.form is WireFormat.OCPI and request.location_id
        else None,
    }


def ocpi_envelope(status_code: int, message: str, at: datetime, content: Any = None) -> dict[str, Any]:
    """Wrap the content of a response in OCPI's envelope."""
    envelope = {"status_code": status_code, "status_message": message, "timestamp": ocpi_time(at)}
    return envelope if content is None else {"data": content, **envelope}


def ocpi_time(at: datetime) -> str:
    """Format a time as OCPI does: RFC 3339 in UTC, with a Z."""
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _placeholders(part: Any) -> list[str]:
    match part:
        case str() if part.startswith("@"):
            return [part]
        case dict():
            return [name for value in part.values() for name in _placeholders(value)]
        case list():
            return [name for value in part for name in _placeholders(value)]
    return []


def _render(part: Any, values: Mapping[str, Any]) -> Any:
    match part:
        case str() if part in PLACEHOLDERS:
            value = values[part]
            return OMIT if value is None else value
        case dict():
            members = {name: _render(value, values) for name, value in part.items()}
            return {name: value for name, value in members.items() if value is not OMIT}
        case list():
            return [value for each in part if (value := _render(each, values)) is not OMIT]
    return part
