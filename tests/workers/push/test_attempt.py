"""One attempt at a push: its result, whatever the channel or the registry of devices does."""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from handlers.kit.channel import Device, OutgoingPush, PushFailed, Unregistered
from workers.ledger.pushes import PushRow
from workers.ledger.states import PushState
from workers.push.attempt import NO_DEVICE, AttemptResult, attempt, fingerprint, next_at
from workers.resilience.retry import RetryPolicy

NOON = datetime(2026, 5, 4, 12, tzinfo=UTC)
SECOND, MINUTE = timedelta(seconds=1), timedelta(minutes=1)
POLICY = RetryPolicy(attempts=3, first=SECOND, longest=MINUTE)


@dataclass(frozen=True)
class FakeChannel:
    """A channel that calls a function."""

    send: Callable[[OutgoingPush], None]
    to_devices: bool = False


def row(**parts: Any) -> PushRow:
    usual: Mapping[str, Any] = {
        **dict.fromkeys(PushRow.__dataclass_fields__),
        "id": "p1",
        "user_id": "driver",
        "title": "Fee",
        "body": "Soon",
        "payload": {},
        "collapse_key": "fee",
        "created_at": NOON,
        "attempts": 1,
    }
    return PushRow(**{**usual, **parts})


def result_of(channel: FakeChannel, *tokens: str, timeout: timedelta = 20 * SECOND, **parts: Any) -> AttemptResult:
    result, _ = attempt(row(**parts), channel, lambda _user: [Device(token) for token in tokens], timeout, POLICY)
    return result


def failing(failure: BaseException, *, only: str | None = None) -> Callable[[OutgoingPush], None]:
    def send(push: OutgoingPush) -> None:
        if only is None or (push.device is not None and push.device.token == only):
            raise failure

    return send


def test_a_push_that_is_accepted_is_sent() -> None:
    sent: list[OutgoingPush] = []
    result = result_of(FakeChannel(sent.append))
    assert (result.state, result.error, result.provider_called) == (PushState.SENT, None, True)
    assert result.sent_at is not None
    assert [(push.id, push.attempt, push.device) for push in sent] == [("p1", 1, None)]


@pytest.mark.parametrize(
    ("failure", "attempts", "state", "error"),
    [
        (PushFailed("busy"), 1, PushState.WAITING, "busy"),
        (PushFailed("busy"), 3, PushState.DEAD, "busy"),
        (PushFailed("refused", retryable=False), 1, PushState.DEAD, "refused"),
        (Unregistered("gone"), 1, PushState.MOOT, "gone"),
        (KeyError("driver"), 1, PushState.WAITING, "the channel broke: KeyError"),
        (SystemExit("driver"), 1, PushState.WAITING, "the channel broke: SystemExit"),
        (TimeoutError("driver"), 1, PushState.WAITING, "the channel broke: TimeoutError"),
    ],
)
def test_a_failure_decides_the_state(failure: BaseException, attempts: int, state: PushState, error: str) -> None:
    result = result_of(FakeChannel(failing(failure)), attempts=attempts)
    assert (result.state, result.error) == (state, error)
    assert (result.due_at is not None) == (state is PushState.WAITING)


def test_only_a_retryable_failure_counts_against_the_provider() -> None:
    assert result_of(FakeChannel(failing(PushFailed("busy")))).provider_error is not None
    assert result_of(FakeChannel(failing(PushFailed("refused", retryable=False)))).provider_error is None


def test_a_channel_that_hangs_times_out_and_its_call_is_returned() -> None:
    released = threading.Event()
    channel = FakeChannel(lambda _push: released.wait(20) and None)
    result, calls = attempt(row(), channel, lambda _user: [], timedelta(milliseconds=10), POLICY)
    assert (result.state, result.error) == (PushState.WAITING, "there was no answer in time")
    assert [call.is_running for call in calls] == [True]
    released.set()
    for call in calls:
        call.join()


def test_a_push_to_devices_is_sent_if_one_of_them_has_it() -> None:
    result = result_of(FakeChannel(failing(Unregistered(), only="old"), to_devices=True), "old", "new")
    assert result.state is PushState.SENT
    assert result.unregistered == ("old",)
    assert result.delivered == {fingerprint("old"): False, fingerprint("new"): True}


def test_a_device_that_is_done_is_not_sent_to_again() -> None:
    sent: list[str] = []
    channel = FakeChannel(lambda push: sent.append(push.device.token if push.device else ""), to_devices=True)
    result = result_of(channel, "done", "new", told={fingerprint("done"): True})
    assert (result.state, sent) == (PushState.SENT, ["new"])
    sent.clear()
    again = result_of(channel, "done", told={fingerprint("done"): True})
    assert (again.state, again.provider_called, sent) == (PushState.SENT, False, [])


def test_a_driver_without_devices_makes_the_push_moot() -> None:
    result = result_of(FakeChannel(failing(KeyError()), to_devices=True))
    assert (result.state, result.error, result.provider_called) == (PushState.MOOT, NO_DEVICE, False)


def test_a_registry_that_breaks_is_no_failure_of_the_provider() -> None:
    def broken(user_id: str) -> list[Device]:
        raise KeyError(user_id)

    result, _ = attempt(row(), FakeChannel(failing(KeyError()), to_devices=True), broken, 20 * SECOND, POLICY)
    assert (result.state, result.error) == (PushState.WAITING, "the devices were not found: KeyError")
    assert (result.provider_error, result.provider_called) == (None, False)


@pytest.mark.parametrize(
    ("attempts", "left", "after", "earliest", "latest"),
    [
        pytest.param(1, None, None, SECOND / 2, SECOND, id="by the policy"),
        pytest.param(1, None, MINUTE, MINUTE, MINUTE, id="not before the provider asks for it"),
        pytest.param(9, 10 * MINUTE, None, MINUTE / 2, MINUTE, id="however often, while it has not expired"),
        pytest.param(9, 20 * SECOND, None, 10 * SECOND, 10 * SECOND, id="more often near its expiry"),
        pytest.param(9, SECOND, None, SECOND, SECOND, id="not more often than every second"),
        pytest.param(1, 20 * SECOND, MINUTE, 20 * SECOND, 20 * SECOND, id="not after its expiry"),
    ],
)
def test_a_push_is_retried(
    attempts: int, left: timedelta | None, after: timedelta | None, earliest: timedelta, latest: timedelta
) -> None:
    push = row(attempts=attempts, expires_at=None if left is None else NOON + left)
    at = next_at(push, after, POLICY, NOON)
    assert at is not None
    assert earliest <= at - NOON <= latest


def test_a_push_without_expiry_is_not_retried_after_the_last_attempt() -> None:
    assert next_at(row(attempts=3), None, POLICY, NOON) is None
