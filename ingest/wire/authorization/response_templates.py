"""Answers as the other side wants them: templates in JSON, whose fields are documented nowhere and so are settings.

A text that is one of NAMES, such as `"@allowed"`, is replaced by what it stands for. What is not known is left out,
with the member that would hold it.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any

from ingest.wire.authorization.request import MAX_MESSAGE_LENGTH, Allowed, AuthorizationRequest, Decision, WireFormat

PLACEHOLDERS = {
    "@allowed": "the decision",
    "@information": "what the driver may be told",
    "@id": "our reference, new for each answer",
    "@key": "the key",
    "@token_type": "its type",
    "@country_code": "the country",
    "@reference_id": "their reference",
    "@location_id": "the location",
    "@session_id": "the session",
    "@valid": "whether it is `ALLOWED`",
    "@now": "the time",
    "@info": "OCPI's DisplayText of what the driver may be told",
    "@location": "OCPI's LocationReferences of where the key may charge",
}
OCPI_SUCCESS = 1000
OCPI_CLIENT_ERROR = 2000
OMIT = object()


@dataclass(frozen=True)
class ResponseTemplate:
    """The template of an answer. Raises ValueError for one that cannot be used."""

    text: str

    def __post_init__(self) -> None:
        """Refuse what is no JSON object, never says the decision, or names what nobody knows."""
        try:
            found = set(_names(self.document)) if isinstance(self.document, dict) else set()
        except (ValueError, RecursionError):
            found = set()
        if "@allowed" not in found:
            raise ValueError('must be a JSON object with the text "@allowed" in it')
        unknown = sorted(found - PLACEHOLDERS.keys())
        if unknown:
            raise ValueError(f"names {unknown[0]}; there are {', '.join(PLACEHOLDERS)}")

    def __str__(self) -> str:
        """Write it as settings do."""
        return self.text

    @cached_property
    def document(self) -> Any:
        """What the text says."""
        return json.loads(self.text)

    def fill(self, values: Mapping[str, Any]) -> Any:
        """Put values, by their names, in their places."""
        return _render(self.document, values)


def placeholder_values(
    question: AuthorizationRequest, decision: Decision, *, reference: str, at: datetime, language: str
) -> dict[str, Any]:
    """Say what the names of a template stand for in one answer."""
    valid = decision.allowed is Allowed.ALLOWED
    information = (decision.information or "").strip()[:MAX_MESSAGE_LENGTH] or None
    location = {"location_id": question.location_id, "evse_uids": list(question.evse_ids)}
    return {
        "@allowed": decision.allowed.value,
        "@information": information,
        "@id": reference,
        "@key": question.key,
        "@token_type": question.token_type,
        "@country_code": question.country_code,
        "@reference_id": question.reference_id,
        "@location_id": question.location_id,
        "@session_id": question.session_id,
        "@valid": valid,
        "@now": ocpi_time(at),
        "@info": information and {"language": language, "text": information},
        "@location": {name: value for name, value in location.items() if value}
        if valid and question.form is WireFormat.OCPI and question.location_id
        else None,
    }


def ocpi_envelope(status_code: int, sentence: str, at: datetime, content: Any = None) -> dict[str, Any]:
    """Put what is answered into OCPI's envelope."""
    envelope = {"status_code": status_code, "status_message": sentence, "timestamp": ocpi_time(at)}
    return envelope if content is None else {"data": content, **envelope}


def ocpi_time(at: datetime) -> str:
    """Write a time as OCPI does: RFC 3339 in UTC, with a Z."""
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _names(part: Any) -> list[str]:
    match part:
        case str() if part.startswith("@"):
            return [part]
        case dict():
            return [name for value in part.values() for name in _names(value)]
        case list():
            return [name for value in part for name in _names(value)]
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
