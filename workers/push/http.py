"""The channel `http`: POSTs a push to a service of the team's own, signed as Plugsurfing signs its webhooks."""

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
    """POSTs pushes; any 2xx means that one was accepted."""

    url: str = field(repr=False)
    key: bytes = field(repr=False)
    concurrency: int

    to_devices = False

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Open the channel. Raise SettingsError if a setting is missing."""
        if settings.push_http_url is None:
            raise SettingsError("PUSH_HTTP_URL is not set: the channel http needs a URL to POST to.")
        if settings.push_http_key is None or not settings.push_http_key.get_secret_value().strip():
            raise SettingsError("PUSH_HTTP_KEY is not set: without a key the channel http cannot sign.")
        return cls(
            settings.push_http_url, settings.push_http_key.get_secret_value().encode(), settings.push_concurrency
        )

    def send(self, push: OutgoingPush) -> None:
        """POST a push; only the status of the response is read."""
        body = format_body(push)
        headers = {
            "content-type": "application/json",
            SIGNATURE_HEADER: sign(body, self.key),
            SIGNED_AT_HEADER: _format_time(datetime.now(UTC)),
            IDEMPOTENCY_HEADER: push.id,
        }
        timeout = push.timeout.total_seconds()
        try:
            with self._client.stream("POST", self.url, content=body, headers=headers, timeout=timeout) as response:
                failure = failure_for_status("the service", response.status_code, response.headers.get("retry-after"))
        except httpx.TransportError as error:
            raise PushFailed(f"the service could not be reached: {type(error).__name__}") from None
        if failure is not None:
            raise failure

    @cached_property
    def _client(self) -> httpx.Client:
        # One for all threads and pushes: connections are reused. No response may redirect a push to somewhere else.
        # The sender bounds the calls; one that waited here for a connection would look like a service that is slow.
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=self.concurrency)
        return httpx.Client(limits=limits, follow_redirects=False)


def format_body(push: OutgoingPush) -> bytes:
    """Format a push as the JSON that is sent."""
    fields: dict[str, Any] = {
        "id": push.id,
        "user_id": push.user_id,
        "session_id": push.session_id,
        "title": push.title,
        "body": push.body,
        "payload": dict(push.payload),
        "collapse_key": push.collapse_key,
        "created_at": _format_time(push.created_at),
        "expires_at": push.expires_at and _format_time(push.expires_at),
    }
    return json.dumps(fields, separators=(",", ":")).encode()


def _format_time(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
