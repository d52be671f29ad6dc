"""The endpoints that Plugsurfing's events and CDRs are posted to.

[request] -> envelope -> inbox -> relay -> jobs -> handler -> ledger
"""

from datetime import UTC, datetime

from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from ingest.config.keyring import Keyring
from ingest.config.settings import Settings
from ingest.errors import InboxUnavailable, NotAuthentic, Refusal, RequestTimeout, WrongPath
from ingest.failpoints import Failpoint, hit
from ingest.http.deadline import SharedDeadline
from ingest.http.request_body import COMPLETE_KEY, check_headers, mark_authentic, read_body
from ingest.http.responses import RETRY_AFTER, error_body, send_accepted, send_and_close, send_error
from ingest.inbox.inbox import Inbox
from ingest.inbox.quarantine import QuarantineWriter
from ingest.inbox.quarantined_request import WRONG_PATH, from_request
from ingest.metrics import Metrics
from ingest.telemetry.steps import Span, SpanKind, receipt_of
from ingest.telemetry.tracing import tracing
from ingest.wire.client_address import check_sender, normalize_address
from ingest.wire.envelope import Envelope, Kind, headers_to_keep, verify_request
from ingest.wire.field_paths import header_names


class WebhookEndpoint:
    """Handles the POSTs of one kind: 200 once what arrived is on disk.

    Without a kind, it handles those that came to a wrong path: 404, and the request is in quarantine.
    A plain ASGI application, because Starlette's Request and Response take longer than everything that is done here.
    """

    def __init__(  # noqa: PLR0913 - what a request passes through
        self,
        kind: Kind | None,
        settings: Settings,
        keyring: Keyring,
        *,
        inbox: Inbox,
        quarantine: QuarantineWriter,
        metrics: Metrics,
    ) -> None:
        self._kind = kind
        self._keyring = keyring
        self._inbox = inbox
        self._quarantine = quarantine
        self._metrics = metrics
        self._signature_required = settings.plugsurfing_hmac_required
        self._sources = settings.plugsurfing_sources
        self._keeping = headers_to_keep(header_names(settings.cdr_request_id))
        self._max_body_bytes = settings.max_body_bytes
        self._body_deadline = SharedDeadline(settings.body_timeout)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read, verify, store, answer."""
        headers: list[tuple[bytes, bytes]] = scope["headers"]
        try:
            check_headers(headers, self._max_body_bytes)
            reading = read_body(receive, self._max_body_bytes)
            is_there = COMPLETE_KEY in scope.get("state", ())
            body = await (reading if is_there else self._body_deadline.wait_for(reading))
        except TimeoutError:
            await self._reject(send, RequestTimeout())
            return
        except ClientDisconnect:
            return
        except Refusal as refusal:
            await self._reject(send, refusal)
            return
        hit(Failpoint.RECEIVED)
        kind = self._kind or _guess_kind(scope["path"])
        keys = self._keyring.keys
        sender = None
        if self._sources:
            sender = normalize_address(scope["client"][0]) if scope["client"] else ""
        try:
            envelope = verify_request(
                kind,
                headers,
                body,
                keys,
                signature_required=self._signature_required,
                received_at=datetime.now(UTC),
                keeping=self._keeping,
            )
            # After the signature, so that a request in quarantine for its address is known to be well signed.
            if sender is not None:
                check_sender(sender, self._sources)
            if self._kind is None:
                raise WrongPath(WRONG_PATH)  # noqa: TRY301 - it is handled as what `verify_request` raises
            mark_authentic(scope)
            hit(Failpoint.VERIFIED)
            delivery_id, duplicate = await self._inbox.insert(envelope)
        except (NotAuthentic, WrongPath) as refusal:
            self._metrics.refused(type(refusal).__name__)
            path = scope["path"] if self._kind is None else None
            self._quarantine.enqueue(from_request(kind, headers, body, refusal, keys, self._keeping, sender, path))
            # At a wrong path, whoever has no key does not learn whether a signature was right.
            answer = refusal if path is None else WrongPath
            await send_error(send, answer.status, answer.sentence)
        except InboxUnavailable as failure:
            self._metrics.refused(type(failure).__name__)
            await send_error(send, failure.status, failure.sentence, RETRY_AFTER)
        else:
            await send_accepted(send, delivery_id, duplicate=duplicate)
            hit(Failpoint.ANSWERED)
            _trace(delivery_id, envelope, duplicate=duplicate)

    async def _reject(self, send: Send, refusal: Refusal) -> None:
        self._metrics.refused(type(refusal).__name__)
        await send_and_close(send, refusal.status, error_body(refusal.sentence))  # part of the body may be unread


def _trace(delivery_id: str, envelope: Envelope, *, duplicate: bool) -> None:
    if duplicate or not tracing.is_on:
        return
    tracing.record(
        Span(
            receipt_of(delivery_id),
            f"POST {envelope.kind}",
            None,
            envelope.received_at,
            datetime.now(UTC),
            SpanKind.SERVER,
            attributes={"signed_with": envelope.signed_with, "http.request.body.size": len(envelope.body)},
        )
    )


def _guess_kind(path: str) -> Kind:
    return Kind.CDRS if "cdr" in path.lower() else Kind.EVENTS
