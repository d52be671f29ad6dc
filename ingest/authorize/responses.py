"""What the lane says on the wire: answers by their templates, and refusals as each form words them."""

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any

from ingest.authorize.decision_record import DecisionRecord
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

# OCPI 2.2.1, section 4.1.4: an answer has the ids of its request.
ECHOED_HEADERS = (b"x-request-id", b"x-correlation-id")
LONGEST_ECHO = 500
# OCPI 2.2.1, section 4.1.2: who cannot say who they are is answered 401, which HTTP wants to go with a challenge.
CHALLENGE = (b"www-authenticate", b"Token")
UNAVAILABLE_MESSAGE = "The question cannot be answered right now."


class ResponseWriter:
    """Says things in one form."""

    def __init__(self, form: WireFormat, settings: Settings) -> None:
        self._is_ocpi = form is WireFormat.OCPI
        self._template = settings.authorize_ocpi_answer if self._is_ocpi else settings.authorize_answer
        self._language = settings.default_locale[:2].lower()

    def answer(self, verdict: DecisionRecord) -> bytes:
        """Write an answer. The same question, asked again, gets the same reference."""
        at = verdict.answered_at
        filled = self._template.fill(
            placeholder_values(
                verdict.question,
                verdict.decision,
                reference=verdict.repeats or verdict.id,
                at=at,
                language=self._language,
            )
        )
        return _json(ocpi_envelope(OCPI_SUCCESS, "Success", at, filled) if self._is_ocpi else filled)

    def refuse(self, refusal: Refusal) -> tuple[HTTPStatus, bytes, Headers]:
        """Write why there is no answer."""
        if not self._is_ocpi:
            return refusal.status, error_body(refusal.sentence), []
        body = _json(ocpi_envelope(OCPI_CLIENT_ERROR, refusal.sentence, datetime.now(UTC)))
        if isinstance(refusal, NotAuthentic):
            return HTTPStatus.UNAUTHORIZED, body, [CHALLENGE]
        return refusal.status, body, []

    def echoed(self, headers: Iterable[tuple[bytes, bytes]]) -> Headers:
        """Pick the headers of a request that its answer repeats."""
        if not self._is_ocpi:
            return []
        return [(name, value) for name, value in headers if name in ECHOED_HEADERS and len(value) <= LONGEST_ECHO]


def _json(document: Any) -> bytes:
    # ASCII: what came with lone surrogates goes back as it came.
    return json.dumps(document).encode("ascii")
