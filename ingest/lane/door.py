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

from ingest.authorization.ruling import Judges, Ruling
from ingest.authorization.verdict import Failure, Recorder, Verdict
from ingest.config.settings import Settings
from ingest.errors import NotAuthentic, Refusal, Unreadable
from ingest.http.request_body import check_headers, read_body
from ingest.http.responses import send_and_close, send_response
from ingest.lane.counts import Counts
from ingest.lane.credentials import Credentials
from ingest.lane.memory import Memory
from ingest.lane.protocol import began
from ingest.lane.reply import Reply
from ingest.wire.authorization.parsing import FieldMap, parse_ocpi, parse_plugsurfing
from ingest.wire.authorization.request import Allowed, AuthorizationRequest, Decision, WireFormat

log = structlog.get_logger()

# In seconds. Left of AUTHORIZE_TIMEOUT for the way of the answer, so that it is there when the time is up, though the
# machine be busy; the judges, who know which policy was late, end a little before that.
HEADROOM = 0.2
JUDGES_SHARE = 0.25


class AuthorizeDoor:
    """Answers the questions of one form: 200 with a decision, but to who has no right to ask, or asks what is none."""

    def __init__(  # noqa: PLR0913 - the rooms behind the door
        self,
        form: WireFormat,
        settings: Settings,
        credentials: Credentials,
        *,
        judges: Judges,
        memory: Memory,
        recorder: Recorder,
        counts: Counts,
    ) -> None:
        self._form = form
        self._credentials = credentials
        self._judges = judges
        self._memory = memory
        self._recorder = recorder
        self._counts = counts
        self._reply = Reply(form, settings)
        self._longest = settings.max_body_bytes
        span = settings.authorize_timeout.total_seconds()
        self._headroom = min(HEADROOM, span / 10)
        self._span = span - self._headroom
        self._on_failure = settings.authorize_on_failure
        self._places = places_of(settings)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Verify, read, decide, answer, record."""
        begun = began(scope)
        echoed = self._reply.echoed(scope["headers"])
        try:
            self._credentials.check(scope["headers"], self._form)
            check_headers(scope["headers"], self._longest)
            body = await asyncio.wait_for(read_body(receive, self._longest), begun + self._span - time.monotonic())
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
            question, _ = self._question(scope, b"", begun)
            verdict = self._verdict(question, Ruling(failure=Failure.SLOW_BODY), uuid4().hex, None, begun)
            await send_and_close(send, HTTPStatus.OK, self._reply.answer(verdict), echoed)
        else:
            verdict = await self._decide(scope, body, begun)
            await send_response(send, HTTPStatus.OK, self._reply.answer(verdict), echoed)
        # Only now: nobody waits for a log, or for a ledger.
        _note(verdict)
        self._counts.answered(verdict)
        self._recorder.record(verdict)

    def _question(self, scope: Scope, body: bytes, begun: float) -> tuple[AuthorizationRequest, bool]:
        """Read the question, as far as it can be; say whether it can."""
        received_at = datetime.now(UTC) - timedelta(seconds=time.monotonic() - begun)
        try:
            if self._form is WireFormat.OCPI:
                return parse_ocpi(scope["raw_path"], scope["query_string"], body, received_at), True
            return parse_plugsurfing(body, self._places, received_at), True
        except Unreadable:
            return AuthorizationRequest(self._form, received_at), False

    async def _decide(self, scope: Scope, body: bytes, begun: float) -> Verdict:
        question, can_be_read = self._question(scope, body, begun)
        id_, repeats = uuid4().hex, None
        if can_be_read:
            request = b"\0".join((self._form.encode(), scope["raw_path"], scope["query_string"], body))
            until = begun + self._span
            asked, is_repeat = self._memory.ask(
                request, id_, lambda: self._judges.decide(question, until - self._headroom * JUDGES_SHARE)
            )
            repeats = asked.id if is_repeat else None
            ruling = await self._ruled(asked.ruling, until)
        else:
            ruling = Ruling(failure=Failure.UNREADABLE)
        return self._verdict(question, ruling, id_, repeats, begun)

    async def _ruled(self, ruling: asyncio.Task[Ruling], until: float) -> Ruling:
        try:
            return await asyncio.wait_for(asyncio.shield(ruling), until - time.monotonic())
        except TimeoutError:
            return Ruling(failure=Failure.LATE)
        except Exception as error:  # noqa: BLE001 - a driver waits: whatever breaks behind the door, it answers
            # Where it happened, and not what it says: the text of an exception may quote the body.
            stack = "".join(traceback.format_tb(error.__traceback__))
            log.error("decision.failed", error=type(error).__name__, stack=stack)  # noqa: TRY400
            return Ruling(failure=Failure.BROKEN)

    def _verdict(
        self, question: AuthorizationRequest, ruling: Ruling, id_: str, repeats: str | None, begun: float
    ) -> Verdict:
        decision = ruling.decision or Decision(Allowed.ALLOWED)
        if ruling.failure is not None:
            decision = Decision(self._on_failure, reason=ruling.error)
        return Verdict(
            id=id_,
            question=question,
            decision=decision,
            policy=ruling.policy,
            failure=ruling.failure,
            answered_at=datetime.now(UTC),
            took=timedelta(seconds=time.monotonic() - begun),
            repeats=repeats,
        )


def places_of(settings: Settings) -> FieldMap:
    """Say where Plugsurfing's form has what."""
    return FieldMap(
        key=settings.authorize_key,
        country_code=settings.authorize_country,
        reference_id=settings.authorize_reference,
        location_id=settings.authorize_location,
        evse_ids=settings.authorize_evse,
        session_id=settings.authorize_session,
    )


def _note(verdict: Verdict) -> None:
    """Write one line: no key, no user, nothing of the body."""
    facts: dict[str, object] = {"ms": round(verdict.took.total_seconds() * 1000, 1)}
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
