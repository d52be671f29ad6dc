"""Pushes: inserted once, claimed by one sender at a time, and not sent after they expire."""

from dataclasses import replace
from datetime import timedelta

import pytest

from handlers.kit.context import Push
from workers.ledger import pushes, sessions
from workers.ledger.pushes import NewPush, PushUpdate
from workers.ledger.states import PushState

SPAN = timedelta(minutes=1)


@pytest.fixture
def add(ledger, noon):
    def write(delivery_id="d1", channel="log", created_at=noon, event_at=None, **parts):
        usual = {"user_id": "u1", "title": "Fee", "body": "Soon", "collapse_key": "fee", "session_id": "s1"}
        push = Push(**{**usual, **parts})
        with ledger.begin() as conn:
            return pushes.insert(conn, [NewPush(delivery_id, "warn", channel, push, created_at, event_at)])

    return write


def claim(ledger, now, channel="log", limit=100, **wanted):
    with ledger.begin() as conn:
        return pushes.claim(conn, channel, now, SPAN, limit=limit, **wanted)


def end_needless(ledger, now):
    with ledger.begin() as conn:
        pushes.expire_unneeded(conn, "log", now)


def find(ledger, **wanted):
    with ledger.begin() as conn:
        return pushes.find(conn, **wanted)


def test_an_inserted_push_is_found_unchanged(ledger, add, noon):
    (key,) = add(body="1 €/min \U0001f50c", payload={"fee": "BLOCKING"}, expires_at=noon + SPAN)
    (push,) = find(ledger)
    assert (push.id, push.delivery_id, push.handler, push.channel) == (key, "d1", "warn", "log")
    assert (push.title, push.body, push.payload) == ("Fee", "1 €/min \U0001f50c", {"fee": "BLOCKING"})
    assert (push.state, push.attempts, push.created_at, push.due_at) == (PushState.WAITING, 0, noon, noon)


def test_the_same_push_of_the_same_run_is_inserted_once(add):
    assert len(add()) == 1
    assert add() == set()
    assert len(add(channel="fcm")) == 1
    assert len(add(collapse_key="another")) == 1
    assert len(add("d2")) == 1


def test_of_pushes_with_one_idempotency_key_only_the_first_is_inserted(add):
    assert len(add("d1", idempotency_key="s1 BLOCKING")) == 1
    assert add("d2", idempotency_key="s1 BLOCKING") == set()
    assert len(add("d2", idempotency_key="s1 BLOCKING", channel="fcm")) == 1
    assert len(add("d3", idempotency_key="s1 BLOCKING", user_id="u2")) == 1
    assert len(add("d4", idempotency_key=None)) == 1


def test_without_pushes_nothing_is_written(ledger):
    with ledger.begin() as conn:
        assert pushes.insert(conn, []) == set()


def test_a_claimed_push_is_not_claimed_again_before_its_span_is_over(ledger, add, noon):
    add()
    assert [push.attempts for push in claim(ledger, noon)] == [1]
    assert claim(ledger, noon + SPAN / 2) == []
    assert [push.attempts for push in claim(ledger, noon + SPAN)] == [2]


def test_a_claim_is_renewed_by_its_holder_only(ledger, add, noon):
    add()
    first, *_ = claim(ledger, noon)
    with ledger.begin() as conn:
        pushes.extend_lease(conn, {first.claim}, noon + 2 * SPAN)
    assert claim(ledger, noon + SPAN) == []
    second, *_ = claim(ledger, noon + 2 * SPAN)
    with ledger.begin() as conn:
        pushes.extend_lease(conn, {first.claim}, noon + 9 * SPAN)
    assert find(ledger)[0].due_at == noon + 3 * SPAN
    assert second.claim == (first.id, 2)


def test_a_channel_claims_its_own_pushes_and_no_more_than_it_can_send(ledger, add, noon):
    for number in range(5):
        add(f"d{number}", collapse_key=f"{number}")
    add(channel="fcm")
    assert claim(ledger, noon - SPAN) == []
    assert claim(ledger, noon, limit=0) == []
    assert len(claim(ledger, noon, limit=3)) == 3
    assert len(claim(ledger, noon, limit=3)) == 2
    assert [push.channel for push in claim(ledger, noon, channel="fcm")] == ["fcm"]


def test_of_concurrent_senders_one_claims_each_push(ledger, add, noon):
    ids = [key for number in range(10) for key in add(f"d{number}", collapse_key=f"{number}")]
    shares = ledger.at_once(lambda conn, _: pushes.claim(conn, "log", noon, SPAN, limit=100))
    assert sorted(push.id for share in shares for push in share) == sorted(ids)


def test_a_channel_knows_whether_a_push_is_due(ledger, add, noon):
    add()
    with ledger.begin() as conn:
        assert pushes.is_any_due(conn, "log", noon)
        assert not pushes.is_any_due(conn, "log", noon - SPAN)
        assert not pushes.is_any_due(conn, "fcm", noon)


def test_an_expired_push_is_not_sent(ledger, add, noon):
    add(expires_at=noon + SPAN)
    end_needless(ledger, noon + SPAN / 2)
    assert [push.state for push in find(ledger)] == [PushState.WAITING]
    end_needless(ledger, noon + SPAN)
    (push,) = find(ledger)
    assert (push.state, push.due_at, push.attempts) == (PushState.EXPIRED, None, 0)


def test_a_push_about_a_session_that_is_over_is_not_sent(ledger, add, says, noon):
    add("d1", session_id="s1", collapse_key="1")
    add("d2", session_id="s2", collapse_key="2")
    with ledger.begin() as conn:
        sessions.merge(conn, {"s1": says("COMPLETE"), "s2": says("STARTED")})
    end_needless(ledger, noon)
    assert {push.delivery_id: push.state for push in find(ledger)} == {"d1": PushState.MOOT, "d2": PushState.WAITING}


@pytest.fixture
def state_after(ledger, add, says, noon):
    """Return the state of the push of a notice, by default of noon, once the session has these statuses."""

    def end_after(*statuses, event_at=noon, **parts):
        with ledger.begin() as conn:
            for status, minute in statuses:
                sessions.merge(conn, {"s1": says(status, minute)})
        add("d1", event_at=event_at, **parts)
        end_needless(ledger, noon)
        return find(ledger)[0].state

    return end_after


@pytest.mark.parametrize(
    "statuses",
    [[("STOPPED", 1)], [("START_FAILED", 1)], [("COMPLETE", -1)], [("COMPLETE", -1), ("STARTED", 1)]],
)
def test_an_end_cancels_the_push_of_an_older_event_and_a_completion_any(state_after, statuses):
    assert state_after(*statuses) is PushState.MOOT


@pytest.mark.parametrize(
    "statuses",
    [
        [("STOPPED", -1)],
        [("STOPPED", 0)],
        [("START_FAILED", -1)],
        [("START_FAILED", -1), ("STARTED", -2)],
        [("STOPPED", 1), ("STOP_FAILED", 2)],
    ],
)
def test_the_push_of_an_event_after_a_stop_or_a_failed_start_is_sent(state_after, statuses):
    assert state_after(*statuses) is PushState.WAITING


def test_the_push_of_no_event_is_not_sent_once_its_session_is_over(state_after):
    assert state_after(("STOPPED", -1), event_at=None) is PushState.MOOT


@pytest.mark.parametrize("statuses", [[("STOPPED", 1)], [("COMPLETE", 0)]])
def test_a_push_for_after_the_end_belongs_to_its_session_and_is_sent_when_it_is_over(ledger, state_after, statuses):
    assert state_after(*statuses, even_if_over=True) is PushState.WAITING
    assert [push.session_id for push in find(ledger, session_id="s1")] == ["s1"]


def test_of_two_pushes_with_one_collapse_key_the_newer_one_is_sent(ledger, add, noon):
    add("d1")
    add("d2", created_at=noon + SPAN)
    add("d3", user_id="u2")
    end_needless(ledger, noon)
    states = {push.delivery_id: push.state for push in find(ledger)}
    assert states == {"d1": PushState.MOOT, "d2": PushState.WAITING, "d3": PushState.WAITING}


def test_a_push_to_a_channel_that_is_gone_ends(ledger, add, noon):
    add(channel="fcm")
    add(channel="log")
    with ledger.begin() as conn:
        assert pushes.expire_unknown_channels(conn, ["log"], noon) == 1
    assert {push.channel: push.state for push in find(ledger)} == {"fcm": PushState.DEAD, "log": PushState.WAITING}


def test_a_push_that_was_sent_stays_sent(ledger, add, noon):
    (key,) = add()
    claim(ledger, noon)
    with ledger.begin() as conn:
        pushes.mark(conn, [PushUpdate(id=key, attempt=1, state=PushState.SENT, sent_at=noon)])
        pushes.mark(conn, [PushUpdate(id=key, attempt=1, state=PushState.DEAD, error="late")])
    (push,) = find(ledger, state=PushState.SENT)
    assert (push.sent_at, push.due_at, push.error) == (noon, None, None)


def test_a_push_that_failed_waits_until_it_is_due_again(ledger, add, noon):
    (key,) = add()
    claim(ledger, noon)
    with ledger.begin() as conn:
        again = PushUpdate(id=key, attempt=1, state=PushState.WAITING, due_at=noon + 2 * SPAN, error="503 \x00")
        pushes.mark(conn, [replace(again, told={"device": True})])
        pushes.mark(conn, [again])
    assert claim(ledger, noon + SPAN) == []
    (push,) = claim(ledger, noon + 2 * SPAN)
    assert (push.attempts, push.error, push.told) == (2, "503 \\u0000", {"device": True})


def test_a_slow_sender_cannot_mark_a_push_that_another_has_claimed(ledger, add, noon):
    (key,) = add()
    claim(ledger, noon)
    claim(ledger, noon + SPAN)
    with ledger.begin() as conn:
        pushes.mark(conn, [PushUpdate(id=key, attempt=1, state=PushState.DEAD, error="timeout")])
        pushes.mark(conn, [PushUpdate(id=key, attempt=2, state=PushState.SENT, sent_at=noon)])
    assert find(ledger)[0].state is PushState.SENT


@pytest.mark.parametrize(("state", "due"), [(PushState.WAITING, False), (PushState.SENT, True)])
def test_a_push_is_due_exactly_while_it_waits(noon, state, due):
    with pytest.raises(ValueError, match="due exactly while"):
        PushUpdate(id="push", attempt=1, state=state, due_at=noon if due else None)


def test_every_filter_narrows_the_list(ledger, add, noon):
    add("d1", session_id="s1")
    add("d2", session_id="s2", user_id="u2")
    assert [push.delivery_id for push in find(ledger, session_id="s2")] == ["d2"]
    assert [push.delivery_id for push in find(ledger, person="U1")] == ["d1"]
    assert find(ledger, state=PushState.DEAD) == []
    assert len(find(ledger, since=noon, until=noon + SPAN)) == 2
    assert find(ledger, until=noon) == []
    assert len(find(ledger, limit=1)) == 1


def test_the_time_of_the_event_decides_which_of_two_pushes_with_one_collapse_key_is_sent(ledger, add, noon):
    add("d1", event_at=noon - SPAN)
    add("d2", event_at=noon)
    add("d3", event_at=noon - 2 * SPAN, created_at=noon + SPAN)
    end_needless(ledger, noon + SPAN)
    states = {push.delivery_id: push.state for push in find(ledger)}
    assert states == {"d1": PushState.MOOT, "d2": PushState.WAITING, "d3": PushState.MOOT}


def test_what_expires_first_is_claimed_first(ledger, add, noon):
    for number, minutes in enumerate([None, 30, 10, 20]):
        expires_at = minutes and noon + minutes * SPAN
        add(f"d{number}", collapse_key=f"{number}", expires_at=expires_at)
    assert [push.delivery_id for push in claim(ledger, noon, limit=3)] == ["d2", "d3", "d1"]


def test_pushes_that_fail_again_and_again_leave_four_fifths_to_others(ledger, add, noon):
    for number in range(20):
        add(f"failing-{number}", collapse_key=f"{number}", expires_at=noon + 20 * SPAN)
    claim(ledger, noon - SPAN)
    claim(ledger, noon)
    for number in range(20, 40):
        add(f"new-{number}", collapse_key=f"{number}", expires_at=noon + 30 * SPAN)
    later = noon + SPAN
    kinds = [push.delivery_id.split("-")[0] for push in claim(ledger, later, limit=10)]
    assert kinds == ["failing"] * 2 + ["new"] * 8
    assert len(claim(ledger, later, limit=30, failing=5)) == 17
    assert [push.delivery_id for push in claim(ledger, later, limit=30, failing=0)] == []


def test_a_push_that_was_given_up_is_sent_when_a_later_run_makes_it_again(ledger, add, noon):
    (key,) = add("d1", idempotency_key="s1 BLOCKING", expires_at=noon)
    end_needless(ledger, noon)
    assert find(ledger)[0].state is PushState.EXPIRED
    later = noon + SPAN
    parts = {"created_at": later, "event_at": later, "expires_at": later + SPAN, "title": "Again"}
    assert add("d2", idempotency_key="s1 BLOCKING", **parts) == {key}
    (push,) = find(ledger)
    assert (push.state, push.due_at, push.expires_at) == (PushState.WAITING, later, later + SPAN)
    assert (push.title, push.event_at) == ("Again", later)


def test_a_push_cancelled_by_a_stop_is_sent_for_a_newer_notice_of_the_same_start(ledger, add, says, noon):
    (key,) = add("d1", idempotency_key="start", event_at=noon)
    with ledger.begin() as conn:
        sessions.merge(conn, {"s1": says("STOPPED", 1)})
    end_needless(ledger, noon)
    assert find(ledger)[0].error == "the session is over"
    assert add("d2", idempotency_key="start", event_at=noon + 2 * SPAN) == {key}
    end_needless(ledger, noon + SPAN)
    assert find(ledger)[0].state is PushState.WAITING


def test_a_stop_does_not_cancel_a_waiting_push_that_a_newer_notice_repeats(ledger, add, says, noon):
    add("d1", idempotency_key="start", event_at=noon)
    assert add("d2", idempotency_key="start", event_at=noon + 2 * SPAN) == set()
    assert add("d3", idempotency_key="start", event_at=noon - SPAN) == set()
    with ledger.begin() as conn:
        sessions.merge(conn, {"s1": says("STOPPED", 1)})
    end_needless(ledger, noon)
    assert find(ledger)[0].state is PushState.WAITING


def test_a_push_that_one_device_has_ends_as_sent_and_not_as_expired(ledger, add, noon):
    (key,) = add(expires_at=noon + 2 * SPAN)
    claim(ledger, noon)
    waits = PushUpdate(id=key, attempt=1, state=PushState.WAITING, due_at=noon + SPAN, sent_at=noon, error="busy")
    with ledger.begin() as conn:
        pushes.mark(conn, [waits])
        pushes.mark(conn, [replace(waits, sent_at=noon + SPAN)])
    end_needless(ledger, noon + 3 * SPAN)
    (push,) = find(ledger)
    assert (push.state, push.sent_at, push.error) == (PushState.SENT, noon, "busy")
