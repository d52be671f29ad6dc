"""One attempt to send a push, to its user or to each of their devices, and its result, whatever the channel does.

claim -> [attempt] -> mark
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any, TypeAlias

from handlers.kit.channel import Device, OutgoingPush, PushFailed, Unregistered
from ingest.wire.timestamps import utc_now
from workers.ledger.pushes import PushRow
from workers.ledger.states import PushState
from workers.push.flow_control import Answer
from workers.push.recipient_backoff import RecipientBackoff
from workers.push.registry import Channel
from workers.resilience.guarded_call import CallTimedOut, TimedCall, deadline_in

DevicesOf: TypeAlias = Callable[[str], Iterable[Device]]

NO_DEVICE = "the driver has no device"
POSTPONED = "it waits for its recipient, where another push has failed"


@dataclass(frozen=True)
class AttemptResult:
    """The result of an attempt."""

    push: PushRow
    state: PushState
    sent_at: datetime | None = None
    due_at: datetime | None = None
    error: str | None = None
    delivered: Mapping[str, bool] = field(default_factory=dict)
    """The devices that need no further attempt, by fingerprint: whether each accepted the push."""
    unregistered: tuple[str, ...] = ()
    answers: tuple[Answer, ...] = ()
    """The answers of the provider; none if it was not called."""


@dataclass(slots=True)
class _Outcome:
    """What came of the calls to the recipients of a push."""

    delivered: dict[str, bool]
    sent_at: datetime | None = None
    retry_at: list[datetime] = field(default_factory=list)
    failures: list[PushFailed] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    unregistered: list[str] = field(default_factory=list)


def attempt(
    push: PushRow, channel: Channel, devices_of: DevicesOf, timeout: timedelta, recipients: RecipientBackoff
) -> tuple[AttemptResult, Sequence[TimedCall[Any]]]:
    """Send a push within the timeout; return the result, and the calls that may still be running."""
    outgoing, deadline = _outgoing(push, timeout), deadline_in(timeout)
    if not channel.to_devices:
        outcome, calls = _send(push, channel, {push.user_id: outgoing}, deadline, recipients)
        outcome.delivered.clear()  # a user is no device
        return _classify(push, outcome), calls
    lookup = TimedCall(lambda: list(devices_of(push.user_id)))
    found, raised = lookup.result(deadline)
    failure = None if raised is None else PushFailed(f"the devices were not found: {_describe(raised)}")
    retry_at = recipients.release(f"devices of {push.user_id}", failure, push)
    if failure is not None:
        retries = [] if retry_at is None else [retry_at]
        return _classify(push, _Outcome({}, retry_at=retries, failures=[failure])), [lookup]
    targets = {fingerprint(device.token): replace(outgoing, device=device) for device in found or ()}
    outcome, calls = _send(push, channel, targets, deadline, recipients)
    if not targets and not outcome.delivered:
        return AttemptResult(push, PushState.MOOT, error=NO_DEVICE), []
    return _classify(push, outcome), calls


def fingerprint(token: str) -> str:
    """Return what identifies a device in the ledger's row of a push, without its token."""
    return sha256(token.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _send(
    push: PushRow,
    channel: Channel,
    targets: Mapping[str, OutgoingPush],
    deadline: float,
    recipients: RecipientBackoff,
) -> tuple[_Outcome, list[TimedCall[datetime]]]:
    """Send to each recipient that is not done yet; a failure at one of them does not affect the others."""
    outcome = _Outcome(dict(push.told or {}))
    calls: dict[str, tuple[tuple[PushFailed | None, int], TimedCall[datetime]]] = {}
    for key, target in targets.items():
        if key in outcome.delivered:
            continue
        earlier = recipients.failures_of(key)
        postponed_to = recipients.acquire(key, push.expires_at)
        if postponed_to is None:
            calls[key] = earlier, TimedCall(_send_one, channel, target)
        else:
            outcome.retry_at.append(postponed_to)
    for key, (earlier, call) in calls.items():
        accepted_at, raised = call.result(deadline)
        failure = None if raised is None else _failure(raised)
        outcome.answers.append(Answer(failure, *earlier))
        retry_at = recipients.release(key, failure, push)
        if failure is None or not failure.retryable:
            outcome.delivered[key] = failure is None
        if accepted_at is not None:
            outcome.sent_at = min(outcome.sent_at or accepted_at, accepted_at)
        if failure is not None:
            outcome.failures.append(failure)
        if retry_at is not None:
            outcome.retry_at.append(retry_at)
        device = targets[key].device
        if isinstance(failure, Unregistered) and device is not None:
            outcome.unregistered.append(device.token)
    return outcome, [call for _, call in calls.values()]


def _send_one(channel: Channel, target: OutgoingPush) -> datetime:
    """Send to one recipient, and return when it was accepted: another one may take longer."""
    channel.send(target)
    return utc_now()


def _classify(push: PushRow, outcome: _Outcome) -> AttemptResult:
    """Return the state that follows: waiting while a retry may help, sent if any device has it, else dead or moot."""
    failures = outcome.failures
    error = "; ".join(dict.fromkeys(map(str, failures))) or None
    result = AttemptResult(
        push,
        PushState.DEAD,
        sent_at=outcome.sent_at,
        error=error,
        delivered=outcome.delivered,
        unregistered=tuple(outcome.unregistered),
        answers=tuple(outcome.answers),
    )
    if outcome.retry_at:
        error = error or push.error or POSTPONED
        return replace(result, state=PushState.WAITING, due_at=min(outcome.retry_at), error=error)
    if not failures or outcome.sent_at or push.sent_at or any(outcome.delivered.values()):
        return replace(result, state=PushState.SENT, sent_at=outcome.sent_at or push.sent_at or utc_now())
    if all(isinstance(failure, Unregistered) for failure in failures):
        return replace(result, state=PushState.MOOT)
    return result


def _outgoing(push: PushRow, timeout: timedelta) -> OutgoingPush:
    return OutgoingPush(
        id=push.id,
        user_id=push.user_id,
        title=push.title,
        body=push.body,
        payload=push.payload,
        collapse_key=push.collapse_key,
        session_id=push.session_id,
        created_at=push.created_at,
        expires_at=push.expires_at,
        attempt=push.attempts,
        timeout=timeout,
    )


def _failure(raised: BaseException) -> PushFailed:
    """Return a PushFailed for anything that a channel raised, without a foreign text: it may name the driver."""
    if isinstance(raised, PushFailed):
        return raised
    return PushFailed(str(raised) if isinstance(raised, CallTimedOut) else f"the channel broke: {_describe(raised)}")


def _describe(raised: BaseException) -> str:
    return str(raised) if isinstance(raised, PushFailed | CallTimedOut) else type(raised).__name__
