"""The authorization endpoint: every request is answered within its deadline, whatever policies do.

request -> credentials -> parsing -> policies -> response -> record
"""

import asyncio
import time
import traceback
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from uuid import uuid4

import structlog
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from ingest.authorize.authorize_metrics import AuthorizeMetrics
from ingest.authorize.credentials import Credentials
from ingest.authorize.decisions import DecisionRecord, DecisionRecorder, FallbackReason, PolicyEvaluator, PolicyResult
from ingest.authorize.response_cache import ResponseCache
from ingest.authorize.response_writer import ResponseWriter
from ingest.authorize.timed_protocol import request_started_at
from ingest.config.settings import Settings
from ingest.errors import NotAuthentic, Refusal
from ingest.http.request_body import check_headers, mark_authentic, read_body
from ingest.http.responses import send_and_close, send_response
from ingest.wire.authorization.parsing import FieldMap, parse_request
from ingest.wire.authorization.request import Allowed, AuthorizationRequest, Decision, WireFormat

log = structlog.get_logger()

# Seconds of AUTHORIZE_TIMEOUT that are left for sending the response, so that it arrives in time on a busy machine.
RESPONSE_HEADROOM = 0.2
# The share of that by which the evaluator ends earlier: it knows which policy was late.
EVALUATOR_HEADROOM = 0.25


class AuthorizeEndpoint:
    """Handles authorization requests in one wire format.

    Responds 200 with a decision (AUTHORIZE_ON_FAILURE if the request cannot be parsed or policies fail); 4xx only
    without valid credentials, or with a body that is too large or encoded.
    """

    def __init__(  # noqa: PLR0913 - what it works with, by name
        self,
        form: WireFormat,
        settings: Settings,
        credentials: Credentials,
        *,
        evaluator: PolicyEvaluator,
        cache: ResponseCache,
        recorder: DecisionRecorder,
        metrics: AuthorizeMetrics,
    ) -> None:
        self._form = form
        self._credentials = credentials
        self._evaluator = evaluator
        self._cache = cache
        self._recorder = recorder
        self._metrics = metrics
        self._writer = ResponseWriter(form, settings)
        self._max_body_bytes = settings.max_body_bytes
        timeout = settings.authorize_timeout.total_seconds()
        self._headroom = min(RESPONSE_HEADROOM, timeout / 10)
        self._time_limit = timeout - self._headroom
        self._on_failure = settings.authorize_on_failure
        self._fields = field_map(settings)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Verify, parse, decide, respond, record."""
        started_at = request_started_at(scope)
        echoed = self._writer.echoed_headers(scope["headers"])
        try:
            self._credentials.check(scope["headers"], self._form)
            mark_authentic(scope)
            check_headers(scope["headers"], self._max_body_bytes)
            time_left = started_at + self._time_limit - time.monotonic()
            body = await asyncio.wait_for(read_body(receive, self._max_body_bytes), time_left)
        except ClientDisconnect:
            self._metrics.refused("Disconnected")
            return
        except Refusal as refusal:
            self._metrics.refused(type(refusal).__name__)
            if isinstance(refusal, NotAuthentic):
                log.warning("authorization.refused", form=self._form, reason=str(refusal))
            status, content, headers = self._writer.error(refusal)
            await send_and_close(send, status, content, [*headers, *echoed])
            return
        except TimeoutError:
            request, _ = self._parse(scope, b"", started_at)
            record = self._record(
                request, PolicyResult(failure=FallbackReason.SLOW_BODY), uuid4().hex, None, started_at
            )
            await send_and_close(send, HTTPStatus.OK, self._writer.success(record), echoed)
        else:
            record = await self._decide(scope, body, started_at)
            await send_response(send, HTTPStatus.OK, self._writer.success(record), echoed)
        # After the response: a driver does not wait for the log or the ledger.
        _log_record(record)
        self._metrics.answered(record)
        self._recorder.record(record)

    def _parse(self, scope: Scope, body: bytes, started_at: float) -> tuple[AuthorizationRequest, bool]:
        received_at = datetime.now(UTC) - timedelta(seconds=time.monotonic() - started_at)
        path, query = scope["raw_path"], scope["query_string"]
        return parse_request(self._form, path, query, body, fields=self._fields, received_at=received_at)

    async def _decide(self, scope: Scope, body: bytes, started_at: float) -> DecisionRecord:
        request, is_readable = self._parse(scope, body, started_at)
        id_, repeats = uuid4().hex, None
        if is_readable:
            raw = b"\0".join((self._form.encode(), scope["raw_path"], scope["query_string"], body))
            deadline = started_at + self._time_limit
            entry, is_repeat = self._cache.get_or_compute(
                raw, id_, lambda: self._evaluator.evaluate(request, deadline - self._headroom * EVALUATOR_HEADROOM)
            )
            repeats = entry.id if is_repeat else None
            result = await self._await_result(entry.result, deadline)
        else:
            result = PolicyResult(failure=FallbackReason.UNREADABLE)
        return self._record(request, result, id_, repeats, started_at)

    async def _await_result(self, result: asyncio.Task[PolicyResult], deadline: float) -> PolicyResult:
        try:
            return await asyncio.wait_for(asyncio.shield(result), deadline - time.monotonic())
        except TimeoutError:
            return PolicyResult(failure=FallbackReason.TIMEOUT)
        except Exception as error:  # noqa: BLE001 - a driver waits: whatever fails, there is a response
            # Only where it happened: the text of an exception may quote the body.
            stack = "".join(traceback.format_tb(error.__traceback__))
            log.error("evaluation.failed", error=type(error).__name__, stack=stack)  # noqa: TRY400
            return PolicyResult(failure=FallbackReason.CRASHED)

    def _record(
        self, request: AuthorizationRequest, result: PolicyResult, id_: str, repeats: str | None, started_at: float
    ) -> DecisionRecord:
        decision = result.decision or Decision(Allowed.ALLOWED)
        if result.failure is not None:
            decision = Decision(self._on_failure, reason=result.error)
        return DecisionRecord(
            id=id_,
            request=request,
            decision=decision,
            policy=result.policy,
            failure=result.failure,
            answered_at=datetime.now(UTC),
            latency=timedelta(seconds=time.monotonic() - started_at),
            repeats=repeats,
        )


def field_map(settings: Settings) -> FieldMap:
    """Return where Plugsurfing's format has each field, by the settings."""
    return FieldMap(
        key=settings.authorize_key,
        country_code=settings.authorize_country,
        reference_id=settings.authorize_reference,
        location_id=settings.authorize_location,
        evse_ids=settings.authorize_evse,
        session_id=settings.authorize_session,
    )


def _log_record(record: DecisionRecord) -> None:
    """Write one line, without the key, the user or anything else of the body."""
    fields: dict[str, object] = {"ms": round(record.latency.total_seconds() * 1000, 1)}
    if record.failure is not None:
        fields |= {"failure": record.failure.value, "error": record.decision.reason or None}
    if record.repeats is not None:
        fields["repeats"] = record.repeats
    write = log.info if record.failure is None else log.warning
    write(
        "authorization.answered",
        decision=record.id,
        form=record.request.form.value,
        allowed=record.decision.allowed.value,
        policy=record.policy,
        **fields,
    )
