"""The door at which Plugsurfing asks: every question is answered in time, whatever policies do.

request -> credentials -> question -> policies -> answer -> record
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

from ingest.authorize.credentials import Credentials
from ingest.authorize.decision_record import DecisionRecord, DecisionRecorder, FallbackReason
from ingest.authorize.evaluator import PolicyEvaluator, PolicyResult
from ingest.authorize.http_protocol import began
from ingest.authorize.metrics import AuthorizeMetrics
from ingest.authorize.response_cache import ResponseCache
from ingest.authorize.responses import ResponseWriter
from ingest.config.settings import Settings
from ingest.errors import NotAuthentic, Refusal, Unreadable
from ingest.http.request_body import check_headers, read_body
from ingest.http.responses import send_and_close, send_response
from ingest.wire.authorization.parsing import FieldMap, parse_ocpi, parse_plugsurfing
from ingest.wire.authorization.request import Allowed, AuthorizationRequest, Decision, WireFormat

log = structlog.get_logger()

# In seconds. Left of AUTHORIZE_TIMEOUT for the way of the answer, so that it is there when the time is up, though the
# machine be busy; the judges, who know which policy was late, end a little before that.
RESPONSE_HEADROOM = 0.2
EVALUATOR_HEADROOM = 0.25


class AuthorizeEndpoint:
    """Answers the questions of one form: 200 with a decision, but to who has no right to ask, or asks what is none."""

    def __init__(  # noqa: PLR0913 - the rooms behind the door
        self,
        form: WireFormat,
        settings: Settings,
        credentials: Credentials,
        *,
        judges: PolicyEvaluator,
        memory: ResponseCache,
        recorder: DecisionRecorder,
        counts: AuthorizeMetrics,
    ) -> None:
        self._form = form
        self._credentials = credentials
        self._judges = judges
        self._memory = memory
        self._recorder = recorder
        self._counts = counts
        self._reply = ResponseWriter(form, settings)
        self._longest = settings.max_body_bytes
        span = settings.authorize_timeout.total_seconds()
        self._headroom = min(RESPONSE_HEADROOM, span / 10)
        self._span = span - self._headroom
        self._on_failure = settings.authorize_on_failure
        self._places = field_map(settings)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Verify, read, decide, answer, record."""
        started_at = began(scope)
        echoed = self._reply.echoed(scope["headers"])
        try:
            self._credentials.check(scope["headers"], self._form)
            check_headers(scope["headers"], self._longest)
            body = await asyncio.wait_for(read_body(receive, self._longest), started_at + self._span - time.monotonic())
        except ClientDisconnect:
            self._counts.refused("Disconnected")
            return
        except Refusal as refusal:
            self._counts.refused(type(refusal).__name__)
            if isinstance(refusal, NotAuthentic):
                log.warning("question.refused", form=self._form, reason=str(refusal))
            status, sentence, headers = self._reply.refuse(refusal)
            await send_and_close(send, status, sentence, [*headers, *echoed])
            return
        except TimeoutError:
            question, _ = self._question(scope, b"", started_at)
            verdict = self._verdict(
                question, PolicyResult(failure=FallbackReason.SLOW_BODY), uuid4().hex, None, started_at
            )
            await send_and_close(send, HTTPStatus.OK, self._reply.answer(verdict), echoed)
        else:
            verdict = await self._decide(scope, body, started_at)
            await send_response(send, HTTPStatus.OK, self._reply.answer(verdict), echoed)
        # Only now: nobody waits for a log, or for a ledger.
        _note(verdict)
        self._counts.answered(verdict)
        self._recorder.record(verdict)

    def _question(self, scope: Scope, body: bytes, started_at: float) -> tuple[AuthorizationRequest, bool]:
        """Read the question, as far as it can be; say whether it can."""
        received_at = datetime.now(UTC) - timedelta(seconds=time.monotonic() - started_at)
        try:
            if self._form is WireFormat.OCPI:
                return parse_ocpi(scope["raw_path"], scope["query_string"], body, received_at), True
            return parse_plugsurfing(body, self._places, received_at), True
        except Unreadable:
            return AuthorizationRequest(self._form, received_at), False

    async def _decide(self, scope: Scope, body: bytes, started_at: float) -> DecisionRecord:
        question, can_be_read = self._question(scope, body, started_at)
        id_, repeats = uuid4().hex, None
        if can_be_read:
            request = b"\0".join((self._form.encode(), scope["raw_path"], scope["query_string"], body))
            until = started_at + self._span
            asked, is_repeat = self._memory.get_or_compute(
                request, id_, lambda: self._judges.evaluate(question, until - self._headroom * EVALUATOR_HEADROOM)
            )
            repeats = asked.id if is_repeat else None
            ruling = await self._await_result(asked.ruling, until)
        else:
            ruling = PolicyResult(failure=FallbackReason.UNREADABLE)
        return self._verdict(question, ruling, id_, repeats, started_at)

    async def _await_result(self, ruling: asyncio.Task[PolicyResult], until: float) -> PolicyResult:
        try:
            return await asyncio.wait_for(asyncio.shield(ruling), until - time.monotonic())
        except TimeoutError:
            return PolicyResult(failure=FallbackReason.TIMEOUT)
        except Exception as error:  # noqa: BLE001 - a driver waits: whatever breaks behind the door, it answers
            # Where it happened, and not what it says: the text of an exception may quote the body.
            stack = "".join(traceback.format_tb(error.__traceback__))
            log.error("decision.failed", error=type(error).__name__, stack=stack)  # noqa: TRY400
            return PolicyResult(failure=FallbackReason.CRASHED)

    def _verdict(
        self, question: AuthorizationRequest, ruling: PolicyResult, id_: str, repeats: str | None, started_at: float
    ) -> DecisionRecord:
        decision = ruling.decision or Decision(Allowed.ALLOWED)
        if ruling.failure is not None:
            decision = Decision(self._on_failure, reason=ruling.error)
        return DecisionRecord(
            id=id_,
            question=question,
            decision=decision,
            policy=ruling.policy,
            failure=ruling.failure,
            answered_at=datetime.now(UTC),
            latency=timedelta(seconds=time.monotonic() - started_at),
            repeats=repeats,
        )


def field_map(settings: Settings) -> FieldMap:
    """Say where Plugsurfing's form has what."""
    return FieldMap(
        key=settings.authorize_key,
        country_code=settings.authorize_country,
        reference_id=settings.authorize_reference,
        location_id=settings.authorize_location,
        evse_ids=settings.authorize_evse,
        session_id=settings.authorize_session,
    )


def _note(verdict: DecisionRecord) -> None:
    """Write one line: no key, no user, nothing of the body."""
    facts: dict[str, object] = {"ms": round(verdict.latency.total_seconds() * 1000, 1)}
    if verdict.failure is not None:
        facts |= {"failure": verdict.failure.value, "error": verdict.decision.reason or None}
    if verdict.repeats is not None:
        facts["repeats"] = verdict.repeats
    tell = log.info if verdict.failure is None else log.warning
    tell(
        "question.answered",
        decision=verdict.id,
        form=verdict.question.form.value,
        allowed=verdict.decision.allowed.value,
        policy=verdict.policy,
        **facts,
    )
