"""The channel `http`: a push is POSTed to a service of the team's own, signed as Plugsurfing signs what it sends us."""

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, Self

import httpx

from handlers.kit.channel import OutgoingPush, PushFailed
from ingest.config.settings import Settings
from ingest.errors import SettingsError
from ingest.wire.signature import SIGNATURE_HEADER, SIGNED_AT_HEADER, sign
from workers.push.http_status import failure_for_status

IDEMPOTENCY_HEADER = "idempotency-key"


@dataclass(frozen=True)
class HttpChannel:
    """POSTs pushes; any 2xx says that one was taken."""

    url: str = field(repr=False)
    key: bytes = field(repr=False)
    concurrency: int

    to_devices = False

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Read what it needs. Raise SettingsError if something is missing."""
        if settings.push_http_url is None:
            raise SettingsError("PUSH_HTTP_URL is not set: the channel http needs to know where to.")
        if settings.push_http_key is None or not settings.push_http_key.get_secret_value().strip():
            raise SettingsError("PUSH_HTTP_KEY is not set: without a key the channel http cannot sign.")
        return cls(
            settings.push_http_url, settings.push_http_key.get_secret_value().encode(), settings.push_concurrency
        )

    def send(self, push: OutgoingPush) -> None:
        """POST it; only the status of the answer is read."""
        body = body_of(push)
        headers = {
            "content-type": "application/json",
            SIGNATURE_HEADER: sign(body, self.key),
            SIGNED_AT_HEADER: _text(datetime.now(UTC)),
            IDEMPOTENCY_HEADER: push.id,
        }
        timeout = push.timeout.total_seconds()
        try:
            with self._client.stream("POST", self.url, content=body, headers=headers, timeout=timeout) as answer:
                failure = failure_for_status("the service", answer.status_code, answer.headers.get("retry-after"))
        except httpx.TransportError as error:
            raise PushFailed(f"the service could not be reached: {type(error).__name__}") from None
        if failure is not None:
            raise failure

    @cached_property
    def _client(self) -> httpx.Client:
        # One for all threads and pushes: connections are used again. No answer redirects a push to somewhere else.
        return httpx.Client(limits=httpx.Limits(max_connections=self.concurrency), follow_redirects=False)


def body_of(push: OutgoingPush) -> bytes:
    """Write the JSON that the service is sent."""
    told: dict[str, Any] = {
        "id": push.id,
        "user_id": push.user_id,
        "session_id": push.session_id,
        "title": push.title,
        "body": push.body,
        "payload": dict(push.payload),
        "collapse_key": push.collapse_key,
        "created_at": _text(push.created_at),
        "expires_at": push.expires_at and _text(push.expires_at),
    }
    return json.dumps(told, separators=(",", ":")).encode()


def _text(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
