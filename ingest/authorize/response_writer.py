"""Format authorization responses by their templates, and errors as each wire format has them."""

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any

from ingest.authorize.decisions import DecisionRecord
from ingest.config.settings import Settings
from ingest.errors import NotAuthentic, Refusal
from ingest.http.responses import Headers, error_body
from ingest.wire.authorization.request import WireFormat
from ingest.wire.authorization.response_templates import (
    OCPI_CLIENT_ERROR,
    OCPI_SUCCESS,
    ocpi_envelope,
    placeholder_values,
)

# OCPI 2.2.1, section 4.1.4: a response has the ids of its request.
ECHOED_HEADERS = (b"x-request-id", b"x-correlation-id")
MAX_ECHO_BYTES = 500
# OCPI 2.2.1, section 4.1.2: wrong credentials are answered 401, for which HTTP requires a challenge.
CHALLENGE = (b"www-authenticate", b"Token")
UNAVAILABLE_MESSAGE = "The request cannot be answered right now."


class ResponseWriter:
    """Formats the responses of one wire format."""

    def __init__(self, form: WireFormat, settings: Settings) -> None:
        self._is_ocpi = form is WireFormat.OCPI
        self._template = settings.authorize_ocpi_answer if self._is_ocpi else settings.authorize_answer
        self._language = settings.default_locale[:2].lower()

    def success(self, record: DecisionRecord) -> bytes:
        """Format the body with a decision. A repeated request gets the reference of the first response."""
        at = record.answered_at
        content = self._template.fill(
            placeholder_values(
                record.request,
                record.decision,
                reference=record.repeats or record.id,
                at=at,
                language=self._language,
            )
        )
        return _json(ocpi_envelope(OCPI_SUCCESS, "Success", at, content) if self._is_ocpi else content)

    def error(self, refusal: Refusal) -> tuple[HTTPStatus, bytes, Headers]:
        """Format the status, body and headers of an error."""
        if not self._is_ocpi:
            return refusal.status, error_body(refusal.sentence), []
        body = _json(ocpi_envelope(OCPI_CLIENT_ERROR, refusal.sentence, datetime.now(UTC)))
        if isinstance(refusal, NotAuthentic):
            return HTTPStatus.UNAUTHORIZED, body, [CHALLENGE]
        return refusal.status, body, []

    def echoed_headers(self, headers: Iterable[tuple[bytes, bytes]]) -> Headers:
        """Return the headers of a request that its response repeats."""
        if not self._is_ocpi:
            return []
        return [(name, value) for name, value in headers if name in ECHOED_HEADERS and len(value) <= MAX_ECHO_BYTES]


def _json(document: Any) -> bytes:
    # ASCII: what came with lone surrogates goes back as it came.
    return json.dumps(document).encode("ascii")
