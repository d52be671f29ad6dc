"""One attempt to send a push, to its user or to each of their devices, and its result, whatever the channel does.

claim -> [attempt] -> mark
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any, TypeAlias

from handlers.kit.channel import Device, OutgoingPush, PushFailed, Unregistered
from workers.ledger.pushes import PushRow
from workers.ledger.states import PushState
from workers.push.registry import Channel
from workers.resilience.guarded_call import CallTimedOut, TimedCall, deadline_in
from workers.resilience.retry import RetryPolicy

DevicesOf: TypeAlias = Callable[[str], Iterable[Device]]

SHORTEST_WAIT = timedelta(seconds=1)
NO_DEVICE = "the driver has no device"


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
    provider_error: PushFailed | None = None
    """The failure that counts against the provider, if it was in trouble."""
    provider_called: bool = True
    """Whether the provider was called at all."""


def attempt(
    push: PushRow, channel: Channel, devices_of: DevicesOf, timeout: timedelta, policy: RetryPolicy
) -> tuple[AttemptResult, Sequence[TimedCall[Any]]]:
    """Send a push within the timeout; return the result, and the calls that may still be running."""
    outgoing, deadline = _outgoing(push, timeout), deadline_in(timeout)
    if not channel.to_devices:
        sending = TimedCall(channel.send, outgoing)
        _, raised = sending.result(deadline)
        return _classify(push, [] if raised is None else [_failure(raised)], policy), [sending]
    lookup = TimedCall(lambda: list(devices_of(push.user_id)))
    found, raised = lookup.result(deadline)
    if raised is not None:
        result = _classify(push, [PushFailed(f"the devices were not found: {_describe(raised)}")], policy)
        return replace(result, provider_error=None, provider_called=False), [lookup]
    return _to_devices(push, channel, [replace(outgoing, device=device) for device in found or ()], deadline, policy)


def fingerprint(token: str) -> str:
    """Return what identifies a device in the ledger's row of a push, without its token."""
    return sha256(token.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _to_devices(
    push: PushRow, channel: Channel, outgoing: Iterable[OutgoingPush], deadline: float, policy: RetryPolicy
) -> tuple[AttemptResult, list[TimedCall[None]]]:
    """Send to each device that is not done yet; a failure at one of them does not affect the others."""
    delivered = dict(push.told or {})
    calls = {
        each.device.token: TimedCall(channel.send, each)
        for each in outgoing
        if each.device is not None and fingerprint(each.device.token) not in delivered
    }
    failures: list[PushFailed] = []
    unregistered: list[str] = []
    for token, call in calls.items():
        _, raised = call.result(deadline)
        failure = None if raised is None else _failure(raised)
        if failure is None or not failure.retryable:
            delivered[fingerprint(token)] = failure is None
        if isinstance(failure, Unregistered):
            unregistered.append(token)
        if failure is not None:
            failures.append(failure)
    result = _classify(push, failures, policy, delivered=delivered)
    if not calls and not delivered:
        result = AttemptResult(push, PushState.MOOT, error=NO_DEVICE)
    result = replace(result, delivered=delivered, unregistered=tuple(unregistered), provider_called=bool(calls))
    return result, list(calls.values())


def _classify(
    push: PushRow, failures: list[PushFailed], policy: RetryPolicy, *, delivered: Mapping[str, bool] | None = None
) -> AttemptResult:
    """Return the state that follows: waiting while a retry may help, sent if any device has it, else dead or moot."""
    at = datetime.now(UTC)
    error = "; ".join(dict.fromkeys(map(str, failures))) or None
    retryable = [failure for failure in failures if failure.retryable]
    provider_error = max(retryable, key=lambda failure: failure.after or timedelta(), default=None)
    due_at = None if provider_error is None else next_at(push, provider_error.after, policy, at)
    if due_at is not None:
        return AttemptResult(push, PushState.WAITING, due_at=due_at, error=error, provider_error=provider_error)
    if not failures or any((delivered or {}).values()):
        return AttemptResult(push, PushState.SENT, sent_at=at, error=error, provider_error=provider_error)
    if all(isinstance(failure, Unregistered) for failure in failures):
        return AttemptResult(push, PushState.MOOT, error=error)
    return AttemptResult(push, PushState.DEAD, error=error, provider_error=provider_error)


def next_at(push: PushRow, after: timedelta | None, policy: RetryPolicy, at: datetime) -> datetime | None:
    """Return when to retry; None after the last attempt.

    A push that expires is retried until then, however often, and more often the nearer the end comes: a provider that
    fails for a minute must not cost a push that has minutes left.
    """
    if push.expires_at is None:
        due_at = policy.next_at(push.attempts, at)
        return due_at and max(due_at, at + (after or timedelta()))
    wait = min(policy.delay(push.attempts), max((push.expires_at - at) / 2, SHORTEST_WAIT))
    return min(at + max(wait, after or timedelta()), max(push.expires_at, at))


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
