"""The routes of the door.

[request] -> envelope -> inbox -> relay -> process -> handler -> ledger
"""

from datetime import UTC, datetime
from http import HTTPStatus

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from ingest.config.keyring import Keyring
from ingest.config.settings import Settings
from ingest.errors import InboxUnavailable, NotAuthentic, Refusal, RequestTimeout
from ingest.failpoints import Failpoint, hit
from ingest.http.deadline import SharedDeadline
from ingest.http.health import ReadinessCheck
from ingest.http.request_body import check_headers, read_body
from ingest.http.responses import RETRY_AFTER, error_body, send_accepted, send_and_close, send_error
from ingest.inbox.inbox import Inbox
from ingest.inbox.quarantine import QuarantineWriter
from ingest.inbox.quarantined_request import from_request
from ingest.metrics import CONTENT_TYPE, Metrics
from ingest.wire.envelope import Kind, headers_to_keep, verify_request
from ingest.wire.field_paths import header_names

ERROR_MESSAGES = {
    HTTPStatus.NOT_FOUND: "There is nothing here.",
    HTTPStatus.METHOD_NOT_ALLOWED: "This method is not allowed here.",
}


class WebhookEndpoint:
    """Takes the POSTs of one kind: answers 200 when what arrived is kept.

    A plain ASGI application, because Starlette's Request and Response take longer than all that is done here.
    """

    def __init__(  # noqa: PLR0913 - the rooms behind the door
        self,
        kind: Kind,
        settings: Settings,
        keyring: Keyring,
        *,
        inbox: Inbox,
        intake: QuarantineWriter,
        metrics: Metrics,
    ) -> None:
        self._kind = kind
        self._keyring = keyring
        self._inbox = inbox
        self._intake = intake
        self._metrics = metrics
        self._signature_required = settings.plugsurfing_hmac_required
        self._sources = settings.sources
        self._keeping = headers_to_keep(header_names(settings.cdr_request_id))
        self._longest = settings.max_body_bytes
        self._patience = SharedDeadline(settings.body_timeout)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read, verify, keep, answer."""
        headers: list[tuple[bytes, bytes]] = scope["headers"]
        try:
            check_headers(headers, self._longest)
            body = await self._patience.wait_for(read_body(receive, self._longest))
        except TimeoutError:
            await self._reject(send, RequestTimeout())
            return
        except ClientDisconnect:
            return
        except Refusal as refusal:
            await self._reject(send, refusal)
            return
        hit(Failpoint.RECEIVED)
        keys = self._keyring.keys
        sender = None
        if self._sources is not None:
            sender = self._sources.sender(scope["client"] and scope["client"][0], headers)
        try:
            envelope = verify_request(
                self._kind,
                headers,
                body,
                keys,
                signature_required=self._signature_required,
                received_at=datetime.now(UTC),
                keeping=self._keeping,
            )
            # After the signature: what is in quarantine for its address alone is well signed.
            if self._sources is not None and sender is not None:
                self._sources.check(sender)
            hit(Failpoint.VERIFIED)
            delivery_id, duplicate = await self._inbox.insert(envelope)
        except NotAuthentic as refusal:
            self._metrics.refused(type(refusal).__name__)
            self._intake.enqueue(from_request(self._kind, headers, body, refusal, keys, self._keeping, sender))
            await send_error(send, refusal.status, refusal.sentence)
        except InboxUnavailable as failure:
            self._metrics.refused(type(failure).__name__)
            await send_error(send, failure.status, failure.sentence, RETRY_AFTER)
        else:
            await send_accepted(send, delivery_id, duplicate=duplicate)
            hit(Failpoint.ANSWERED)

    async def _reject(self, send: Send, refusal: Refusal) -> None:
        self._metrics.refused(type(refusal).__name__)
        await send_and_close(send, refusal.status, error_body(refusal.sentence))


class HealthEndpoints:
    """Answers those who watch over the process."""

    def __init__(self, health: ReadinessCheck, metrics: Metrics) -> None:
        self._health = health
        self._metrics = metrics

    async def healthz(self, _request: Request) -> Response:
        """Say that the process lives."""
        return JSONResponse({"status": "ok"})

    async def readyz(self, _request: Request) -> Response:
        """Say whether an event can be kept; Redis need not be there for that."""
        facts = await self._health.check()
        relay = facts.relay
        return JSONResponse(
            {
                "ready": facts.inbox_problem is None,
                "inbox": {
                    "ok": facts.inbox_problem is None,
                    "error": facts.inbox_problem,
                    "unsettled": facts.unsettled,
                },
                "redis": {"ok": relay.redis_ok, "error": relay.redis_error},
                "relay": {
                    "ok": relay.error is None,
                    "error": relay.error,
                    "leader": relay.leader,
                    "held": relay.backlog,
                    "last_offer_at": relay.last_published_at.isoformat() if relay.last_published_at else None,
                },
                "oldest_unsettled_seconds": facts.oldest_unsettled_seconds,
            },
            status_code=HTTPStatus.OK if facts.inbox_problem is None else HTTPStatus.SERVICE_UNAVAILABLE,
        )

    async def metrics(self, _request: Request) -> Response:
        """Say everything in numbers."""
        facts = await self._health.check()
        relay = facts.relay
        numbers = {
            "inbox_up": facts.inbox_problem is None,
            "inbox_unsettled": facts.unsettled,
            "inbox_oldest_unsettled_seconds": facts.oldest_unsettled_seconds,
            "redis_up": relay.redis_ok,
            "relay_leader": relay.leader,
            "relay_held": relay.backlog,
            "relay_last_offer_timestamp_seconds": relay.last_published_at.timestamp()
            if relay.last_published_at
            else None,
        }
        text = self._metrics.text({name: float(number) for name, number in numbers.items() if number is not None})
        return Response(text, media_type=CONTENT_TYPE)


async def http_error_handler(_request: Request, wrong: HTTPException) -> Response:
    """Answer what no route takes."""
    status = HTTPStatus(wrong.status_code)
    return JSONResponse({"error": ERROR_MESSAGES.get(status, status.phrase)}, status, wrong.headers)
