from datetime import UTC, datetime

import pytest
from sqlalchemy import text

from handlers import Context, Device, RetryLater
from handlers.kit.context import MAX_KEY_BYTES, DeferredEffects, Push
from handlers.kit.session import DriverAssignment, Session
from handlers.kit.templates import Recipient
from handlers.kit.testing import context_for
from ingest.events import SessionStarted

AT = datetime(2025, 6, 12, 10, 56, 51, tzinfo=UTC)
EVENT = SessionStarted(session_id="S", at=AT)


def push(ctx: Context, **changed):
    ctx.push("user1", **{"title": "T", "body": "B", "collapse_key": "k", **changed})


def test_a_context_only_collects_writes_in_their_order():
    ctx = context_for(EVENT)
    statements = [text("DELETE FROM a"), text("DELETE FROM b")]
    for statement in statements:
        ctx.write(statement)
    push(ctx, title="first")
    push(ctx, title="second")
    assert [write.statement for write in ctx.writes.written] == statements
    assert [push.title for push in ctx.writes.pushes] == ["first", "second"]


def test_a_run_that_writes_nothing_has_no_writes():
    assert context_for(EVENT).writes == DeferredEffects()


def test_writes_that_were_taken_do_not_grow():
    ctx = context_for(EVENT)
    taken = ctx.writes
    push(ctx)
    assert taken == DeferredEffects()


def test_a_push_has_the_arguments_of_the_handler():
    ctx = context_for(EVENT)
    payload = {"session_id": "S"}
    arguments = {"session_id": "S", "even_if_over": True, "expires_at": AT, "idempotency_key": "i"}
    push(ctx, **arguments, payload=payload)
    payload.clear()
    assert ctx.writes.pushes == (Push("user1", "T", "B", "k", **arguments, payload={"session_id": "S"}),)


def test_a_push_needs_only_a_text_and_a_collapse_key():
    ctx = context_for(EVENT)
    push(ctx)
    assert ctx.writes.pushes == (Push("user1", "T", "B", "k"),)


def test_an_expiry_without_a_time_zone_is_refused():
    with pytest.raises(ValueError, match="time zone"):
        push(context_for(EVENT), expires_at=datetime(2025, 6, 12))  # noqa: DTZ001 - that is the point


def test_long_keys_become_digests():
    ctx = context_for(EVENT)
    longest, longer, other = "k" * MAX_KEY_BYTES, "k" * (MAX_KEY_BYTES + 1), "k" * MAX_KEY_BYTES + "\ud800"
    for key in (longest, longer, longer, other):
        push(ctx, collapse_key=key, idempotency_key=key)
    keys = [push.collapse_key for push in ctx.writes.pushes]
    assert keys == [push.idempotency_key for push in ctx.writes.pushes]
    assert keys[0] == longest
    assert keys[1] == keys[2] != keys[3]
    assert max(map(len, keys[1:])) <= MAX_KEY_BYTES


def test_a_session_with_a_driver_is_found():
    known = Session("S", users={"user1": DriverAssignment(AT, "event")})
    found = context_for(EVENT, sessions=[known]).session("S")
    assert found.user_id == "user1"
    assert found.to_document() == known.to_document()


@pytest.mark.parametrize("sessions", [[], [Session.empty("S")]])
def test_a_session_without_a_driver_is_retried_later(sessions):
    with pytest.raises(RetryLater) as raised:
        context_for(EVENT, sessions=sessions).session("S", until=AT)
    assert (raised.value.session_id, raised.value.until, raised.value.after) == ("S", AT, None)


def test_a_recipient_is_what_can_be_understood_of_their_devices():
    devices = [
        Device("a", locale="C", time_zone="Asia/Hanoi"),
        Device("b", locale="nl_BE.UTF-8"),
        Device("c", time_zone="gmt+2"),
    ]
    recipient = context_for(EVENT, devices=devices).recipient("user1")
    assert recipient == Recipient("nl-BE", "UTC+02:00")
