from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial, reduce

import pytest

from handlers import Moot, RetryLater
from handlers.fee_warning import remind_the_driver, warn_the_driver
from handlers.kit.channel import Device
from handlers.kit.context import Push
from handlers.kit.merge import MAX_FEES
from handlers.kit.session import Session
from handlers.kit.testing import context_for
from handlers.session_records import session_record
from ingest.events import (
    SessionComplete,
    SessionEvent,
    SessionFeeIncurring,
    SessionStarted,
    SessionStartFailed,
    SessionStopFailed,
    SessionStopped,
)

AT = datetime(2025, 10, 15, 8, 52, 48, tzinfo=UTC)
START = AT + timedelta(minutes=10)
STARTED = SessionStarted(session_id="S", user_id="user1", at=AT - timedelta(hours=1))


def notice(*, start=START, at=AT, fee="BLOCKING"):
    return SessionFeeIncurring(session_id="S", at=at, fee_will_apply_from=start, fee_type=fee)


def handled(handler, event, *others, now=AT, received_at=AT, **given):
    """Handle the notice as the worker does, once the record knows it and the others; return what is pushed."""
    record = reduce(session_record, [*others, event], Session.empty("S"))
    ctx = context_for(event, sessions=[record], now=now, **given)
    ctx.delivery = replace(ctx.delivery, received_at=received_at)
    handler(event, ctx)
    return list(ctx.writes.pushes)


warned = partial(handled, warn_the_driver)
reminded = partial(handled, remind_the_driver, settings={"remind_before": timedelta(minutes=2)})


def test_the_warning_has_all_that_the_app_needs():
    assert warned(notice(), STARTED) == [
        Push(
            user_id="user1",
            title="Avoid a blocking fee from 11:02",
            body="End your session before 11:02 and free the charger, or a blocking fee may apply.",
            session_id="S",
            collapse_key="fee:S:BLOCKING",
            idempotency_key="fee:S:BLOCKING:2025-10-15T09:02:48+00:00",
            expires_at=START,
            payload={"session_id": "S", "fee_type": "BLOCKING", "fee_will_apply_from": "2025-10-15T09:02:48+00:00"},
        )
    ]


def test_the_warning_has_the_language_and_time_zone_of_the_latest_device():
    devices = [Device("a"), Device("b", locale="sv_SE", time_zone="Europe/Helsinki"), Device("c", locale="de")]
    (push,) = warned(notice(), STARTED, devices=devices)
    assert push.title == "Undvik blockeringsavgift från 12:02"


def test_an_unknown_fee_has_a_text_too():
    (push,) = warned(notice(fee="{{MOONLIGHT}}/../.."), STARTED)
    assert (push.title, push.payload["fee_type"]) == ("Avoid an extra fee from 11:02", "{{MOONLIGHT}}/../..")


def test_a_fee_without_a_type_has_the_general_words():
    (push,) = warned(notice(fee=None), STARTED)
    assert (push.title, push.payload["fee_type"]) == ("Avoid an extra fee from 11:02", "UNKNOWN")


def test_a_moved_start_is_another_warning_that_replaces_the_first():
    (first,) = warned(notice(), STARTED)
    moved = notice(start=START + timedelta(minutes=5), at=AT + timedelta(minutes=1))
    (second,) = warned(moved, STARTED, notice())
    assert first.collapse_key == second.collapse_key
    assert first.idempotency_key != second.idempotency_key


def test_an_older_notice_does_not_replace_a_newer_one():
    moved = notice(start=START + timedelta(minutes=5), at=AT + timedelta(minutes=1))
    with pytest.raises(Moot, match="moved"):
        warned(notice(), STARTED, moved)


def test_fees_of_two_types_are_two_warnings():
    (first,) = warned(notice(), STARTED, notice(fee="CONGESTION", at=AT + timedelta(minutes=1)))
    (second,) = warned(notice(fee="CONGESTION"), STARTED, notice())
    assert first.collapse_key != second.collapse_key


def test_a_repeated_notice_is_the_same_warning():
    (first,) = warned(notice(), STARTED)
    (second,) = warned(notice(at=AT + timedelta(minutes=1)), STARTED, notice())
    assert first.idempotency_key == second.idempotency_key


def test_without_a_driver_the_warning_waits_until_the_fee_starts():
    with pytest.raises(RetryLater) as raised:
        warned(notice())
    assert (raised.value.until, raised.value.session_id) == (START, "S")


def test_a_start_that_moves_back_is_warned_of_again_and_once():
    moved, back, repeat = (
        notice(start=start, at=AT + timedelta(minutes=minute))
        for minute, start in enumerate((START + timedelta(minutes=5), START, START), 1)
    )
    (first,) = warned(notice(), STARTED)
    (second,) = warned(moved, STARTED, notice())
    (third,) = warned(back, STARTED, notice(), moved)
    (again,) = warned(repeat, STARTED, back, moved, notice())
    assert len({push.collapse_key for push in (first, second, third)}) == 1
    assert len({push.idempotency_key for push in (first, second, third)}) == 3
    assert again.idempotency_key == third.idempotency_key


def test_a_start_that_moves_back_is_reminded_of_again():
    moved = notice(start=START + timedelta(minutes=5), at=AT + timedelta(minutes=1))
    back = notice(at=AT + timedelta(minutes=2))
    (first,) = reminded(notice(), STARTED, now=START - timedelta(minutes=2))
    (second,) = reminded(back, STARTED, notice(), moved, now=START - timedelta(minutes=2))
    assert first.idempotency_key != second.idempotency_key


def test_a_fee_that_the_record_has_dropped_is_warned_of_at_each_notice():
    others = [notice(fee=f"A{number}") for number in range(MAX_FEES)]
    (first,) = warned(notice(), STARTED, *others)
    (second,) = warned(notice(at=AT + timedelta(minutes=1)), STARTED, *others)
    assert first.idempotency_key != second.idempotency_key


@pytest.mark.parametrize("handler", [warned, reminded])
@pytest.mark.parametrize(
    "events",
    [
        [(SessionStarted, -60), (SessionStopped, 1)],
        [(SessionStartFailed, 1)],
        [(SessionStarted, -60), (SessionStopped, -5), (SessionComplete, -4)],
        [(SessionComplete, 1)],
        [(SessionComplete, -9), (SessionStarted, -5)],
        [(SessionStopped, 1), (SessionStartFailed, 2)],
    ],
)
def test_a_completion_silences_every_notice_and_other_ends_silence_an_older_one(handler, events):
    with pytest.raises(Moot, match="session is over"):
        handler(notice(), *of_session(events))


@pytest.mark.parametrize(
    "events",
    [
        [(SessionStarted, -60), (SessionStopped, -10)],
        [(SessionStarted, -60), (SessionStopped, 0)],
        [(SessionStartFailed, -58)],
        [(SessionStartFailed, -58), (SessionStarted, -59)],
        [(SessionStarted, -60), (SessionStartFailed, 0)],
        [(SessionStopped, 1), (SessionStarted, 2)],
        [(SessionStopped, 1), (SessionStopFailed, 2)],
        [],
    ],
)
def test_a_notice_is_evidence_that_its_session_goes_on(events):
    for order in (events, events[::-1]):
        assert warned(notice(), *of_session(order))
        assert reminded(notice(), *of_session(order), now=START - timedelta(minutes=2))


def of_session(events):
    """Return events of these kinds and minutes after the notice, and one of no status that names the driver."""
    named = SessionEvent(name="SESSION_SEEN", session_id="S", user_id="user1", at=AT)
    return [named, *(kind(session_id="S", at=AT + timedelta(minutes=minute)) for kind, minute in events)]


def test_a_session_whose_stop_failed_still_gets_a_warning():
    assert warned(notice(), STARTED, SessionStopFailed(session_id="S", at=AT))


def test_there_is_no_warning_of_a_fee_that_has_started():
    with pytest.raises(Moot, match="too late"):
        warned(notice(), STARTED, now=START)
    assert warned(notice(), STARTED, now=START - timedelta(microseconds=1))


def test_a_warning_that_leaves_no_time_to_act_is_not_sent():
    grace = {"fee_warning_grace": timedelta(minutes=3)}
    with pytest.raises(Moot, match="FEE_WARNING_GRACE"):
        warned(notice(), STARTED, now=START - timedelta(minutes=3), settings=grace)
    (push,) = warned(notice(), STARTED, now=START - timedelta(minutes=4), settings=grace)
    assert push.expires_at == START - timedelta(minutes=3)
    with pytest.raises(RetryLater) as raised:
        warned(notice(), settings=grace)
    assert raised.value.until == START - timedelta(minutes=3)


@pytest.mark.parametrize("setting", ["fee_warning_grace", "remind_before"])
@pytest.mark.parametrize("start", [datetime.min.replace(tzinfo=UTC), datetime.min.replace(tzinfo=UTC, minute=1)])
def test_a_fee_at_the_beginning_of_the_calendar_is_too_late(setting, start):
    settings = {setting: timedelta(minutes=2)}
    with pytest.raises(Moot, match="too late"):
        handled(warn_the_driver, notice(start=start), STARTED, settings=settings)
    with pytest.raises(Moot, match="late enough"):
        handled(remind_the_driver, notice(start=start), STARTED, settings=settings)
    with pytest.raises(RetryLater) as raised:
        handled(warn_the_driver, notice(start=start), settings=settings)
    assert raised.value.until < AT


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York"])
def test_a_fee_at_the_end_of_the_calendar_is_warned_of(zone):
    devices = [Device("a", time_zone=zone)]
    end = notice(start=datetime.max.replace(tzinfo=UTC))
    (first,) = warned(end, STARTED, devices=devices)
    assert first.expires_at == end.fee_will_apply_from
    with pytest.raises(RetryLater):
        reminded(end, STARTED, devices=devices)


def test_a_reminder_waits_for_its_time_and_for_events_of_the_session():
    with pytest.raises(RetryLater) as raised:
        reminded(notice(), STARTED, now=START - timedelta(minutes=5))
    assert (raised.value.after, raised.value.until) == (timedelta(minutes=3), START)
    assert raised.value.session_id == "S"


def test_a_reminder_that_becomes_due_during_the_run_is_due_at_once():
    event, reminds_at = notice(), START - timedelta(minutes=2)
    record = reduce(session_record, [STARTED, event], Session.empty("S"))
    ctx = context_for(event, sessions=[record], settings={"remind_before": timedelta(minutes=2)})
    ctx.now = iter([reminds_at + timedelta(seconds=number) for number in (-2, -1, 1)]).__next__
    with pytest.raises(RetryLater) as raised:
        remind_the_driver(event, ctx)
    assert raised.value.after > timedelta()


def test_a_reminder_replaces_the_warning_on_the_phone():
    (first,) = warned(notice(), STARTED)
    (second,) = reminded(notice(), STARTED, now=START - timedelta(minutes=2))
    assert second.title == "Last reminder before a fee"
    assert second.collapse_key == first.collapse_key
    assert second.idempotency_key != first.idempotency_key


def test_a_late_warning_needs_no_reminder():
    with pytest.raises(Moot, match="late enough"):
        reminded(notice(), STARTED, received_at=START - timedelta(minutes=2))


def test_a_session_that_ended_meanwhile_needs_no_reminder():
    with pytest.raises(Moot, match="over"):
        reminded(
            notice(),
            STARTED,
            SessionStopped(session_id="S", at=AT + timedelta(seconds=1)),
            now=START - timedelta(minutes=5),
        )


def test_a_start_that_has_moved_gets_one_reminder():
    moved = notice(start=START + timedelta(minutes=5), at=AT + timedelta(minutes=1))
    with pytest.raises(Moot, match="moved"):
        reminded(notice(), STARTED, moved)
