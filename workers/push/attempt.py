"""One attempt to send a push, to its user or to each of their devices: what came of it, whatever the channel did.

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
from workers.push.channel import Channel
from workers.resilience.retry import RetryPolicy
from workers.resilience.timed_call import TimedCall, deadline_in

DevicesOf: TypeAlias = Callable[[str], Iterable[Device]]

SHORTEST_WAIT = timedelta(seconds=1)
NO_DEVICE = "the driver has no device"


@dataclass(frozen=True)
class AttemptResult:
    """What came of an attempt."""

    push: PushRow
    state: PushState
    sent_at: datetime | None = None
    due_at: datetime | None = None
    error: str | None = None
    delivered: Mapping[str, bool] = field(default_factory=dict)
    """The devices that are done with, by fingerprint: whether each has taken it."""
    unregistered: tuple[str, ...] = ()
    provider_error: PushFailed | None = None
    """What the provider should be spared for, if it was in trouble."""
    provider_called: bool = True
    """Whether the provider was asked at all."""


def attempt(
    push: PushRow, channel: Channel, devices_of: DevicesOf, timeout: timedelta, policy: RetryPolicy
) -> tuple[AttemptResult, Sequence[TimedCall[Any]]]:
    """Send a push within the timeout; give what came of it, and the calls that may still be hanging."""
    outgoing, until = _outgoing(push, timeout), deadline_in(timeout)
    if not channel.to_devices:
        sending = TimedCall(channel.send, outgoing)
        _, raised = sending.result(until)
        return _classify(push, [] if raised is None else [_failure(raised)], policy), [sending]
    looking = TimedCall(lambda: list(devices_of(push.user_id)))
    found, raised = looking.result(until)
    if raised is not None:
        ending = _classify(push, [PushFailed(f"the devices were not found: {_name(raised)}")], policy)
        return replace(ending, provider_error=None, provider_called=False), [looking]
    return _to_devices(push, channel, [replace(outgoing, device=device) for device in found or ()], until, policy)


def fingerprint(token: str) -> str:
    """Name a device in the ledger's row of a push, without its token."""
    return sha256(token.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _to_devices(
    push: PushRow, channel: Channel, outgoing: Iterable[OutgoingPush], until: float, policy: RetryPolicy
) -> tuple[AttemptResult, list[TimedCall[None]]]:
    """Send it to each device that is not done with; what one of them refuses is no matter of the others."""
    told = dict(push.told or {})
    calls = {
        each.device.token: TimedCall(channel.send, each)
        for each in outgoing
        if each.device is not None and fingerprint(each.device.token) not in told
    }
    failures: list[PushFailed] = []
    unregistered: list[str] = []
    for token, call in calls.items():
        _, raised = call.result(until)
        failure = None if raised is None else _failure(raised)
        if failure is None or not failure.retryable:
            told[fingerprint(token)] = failure is None
        if isinstance(failure, Unregistered):
            unregistered.append(token)
        if failure is not None:
            failures.append(failure)
    ending = _classify(push, failures, policy, told=told)
    if not calls and not told:
        ending = AttemptResult(push, PushState.MOOT, error=NO_DEVICE)
    heard = bool(calls)
    return replace(ending, delivered=told, unregistered=tuple(unregistered), provider_called=heard), list(
        calls.values()
    )


def _classify(
    push: PushRow, failures: list[PushFailed], policy: RetryPolicy, *, told: Mapping[str, bool] | None = None
) -> AttemptResult:
    """Say how the push stands: tried again while anything may help, sent if anybody has it, else dead or moot."""
    at = datetime.now(UTC)
    again = [failure for failure in failures if failure.retryable]
    error = "; ".join(dict.fromkeys(map(str, failures))) or None
    trouble = max(again, key=lambda failure: failure.after or timedelta(), default=None)
    due_at = None if trouble is None else next_at(push, trouble.after, policy, at)
    if due_at is not None:
        return AttemptResult(push, PushState.WAITING, due_at=due_at, error=error, provider_error=trouble)
    if not failures or any((told or {}).values()):
        return AttemptResult(push, PushState.SENT, sent_at=at, error=error, provider_error=trouble)
    if all(isinstance(failure, Unregistered) for failure in failures):
        return AttemptResult(push, PushState.MOOT, error=error)
    return AttemptResult(push, PushState.DEAD, error=error, provider_error=trouble)


def next_at(push: PushRow, after: timedelta | None, policy: RetryPolicy, at: datetime) -> datetime | None:
    """Say when to try again; None when that was the last time.

    A push with an end is tried until then, however often, and more often the nearer it comes: what a provider does not
    take for a minute shall not be lost for want of a retry in the minutes that are left.
    """
    if push.expires_at is None:
        due_at = policy.next_at(push.attempts, at)
        return due_at and max(due_at, at + (after or timedelta()))
    span = min(policy.delay(push.attempts), max((push.expires_at - at) / 2, SHORTEST_WAIT))
    return min(at + max(span, after or timedelta()), max(push.expires_at, at))


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
    """Take what is not a PushFailed as one, without its words: they may name the driver."""
    return raised if isinstance(raised, PushFailed) else PushFailed(f"the channel broke: {_name(raised)}")


def _name(raised: BaseException) -> str:
    return str(raised) if isinstance(raised, PushFailed) else type(raised).__name__
