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
from workers.push.attempt import NO_DEVICE, POSTPONED, AttemptResult, attempt, fingerprint
from workers.push.recipient_backoff import RecipientBackoff
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


def result_of(
    channel: FakeChannel,
    *tokens: str,
    timeout: timedelta = 20 * SECOND,
    recipients: RecipientBackoff | None = None,
    **parts: Any,
) -> AttemptResult:
    recipients = recipients or RecipientBackoff(POLICY)
    result, _ = attempt(row(**parts), channel, lambda _user: [Device(token) for token in tokens], timeout, recipients)
    return result


def failures_in(result: AttemptResult) -> list[str]:
    return [str(answer.failure) for answer in result.answers if answer.failure is not None]


def failing(failure: BaseException, *, only: str | None = None) -> Callable[[OutgoingPush], None]:
    def send(push: OutgoingPush) -> None:
        if only is None or (push.device is not None and push.device.token == only):
            raise failure

    return send


def test_a_push_that_is_accepted_is_sent() -> None:
    sent: list[OutgoingPush] = []
    result = result_of(FakeChannel(sent.append))
    assert (result.state, result.error, len(result.answers)) == (PushState.SENT, None, 1)
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


def test_a_channel_that_hangs_times_out_and_its_call_is_returned() -> None:
    released = threading.Event()
    channel = FakeChannel(lambda _push: released.wait(20) and None)
    result, calls = attempt(row(), channel, lambda _user: [], timedelta(milliseconds=10), RecipientBackoff(POLICY))
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
    assert (again.state, again.answers, sent) == (PushState.SENT, (), [])


def test_a_driver_without_devices_makes_the_push_moot() -> None:
    result = result_of(FakeChannel(failing(KeyError()), to_devices=True))
    assert (result.state, result.error, result.answers) == (PushState.MOOT, NO_DEVICE, ())


def test_a_registry_that_breaks_is_no_failure_of_the_provider() -> None:
    def broken(user_id: str) -> list[Device]:
        raise KeyError(user_id)

    result, _ = attempt(
        row(), FakeChannel(failing(KeyError()), to_devices=True), broken, 20 * SECOND, RecipientBackoff(POLICY)
    )
    assert (result.state, result.error) == (PushState.WAITING, "the devices were not found: KeyError")
    assert result.answers == ()


def test_a_device_that_fails_waits_and_the_others_get_every_push() -> None:
    recipients, sent = RecipientBackoff(POLICY), list[str]()

    def send(push: OutgoingPush) -> None:
        assert push.device is not None
        sent.append(push.device.token)
        if push.device.token == "over quota":
            raise PushFailed("429", throttled=True)

    channel = FakeChannel(send, to_devices=True)
    first = result_of(channel, "over quota", "works", recipients=recipients)
    second = result_of(channel, "over quota", "works", recipients=recipients, id="p2")
    assert sorted(sent) == ["over quota", "works", "works"]
    assert first.delivered == second.delivered == {fingerprint("works"): True}
    assert (first.state, second.state, second.error) == (PushState.WAITING, PushState.WAITING, POSTPONED)
    assert second.due_at == first.due_at
    assert None not in (first.sent_at, second.sent_at)


def test_an_answer_knows_the_failure_of_its_recipient_before() -> None:
    now = [NOON]
    recipients = RecipientBackoff(POLICY, now=lambda: now[0])
    failure = PushFailed("busy")
    (first,) = result_of(FakeChannel(failing(failure)), recipients=recipients).answers
    now[0] += MINUTE
    (second,) = result_of(FakeChannel(lambda _push: None), recipients=recipients).answers
    assert (first.failure, first.earlier) == (failure, None)
    assert (second.failure, second.earlier) == (None, failure)


def test_a_push_that_one_device_has_is_sent_when_the_last_attempt_at_another_fails() -> None:
    channel = FakeChannel(failing(PushFailed("busy")), to_devices=True)
    told = {fingerprint("works"): True}
    result = result_of(channel, "works", "fails", told=told, sent_at=NOON, attempts=POLICY.attempts)
    assert (result.state, result.sent_at, failures_in(result)) == (PushState.SENT, NOON, ["busy"])
