"""What became of each fee warning: its outcome, why, when it was sent, and whether it helped."""

import json
from datetime import timedelta
from functools import partial

import pytest
from sqlalchemy import update

from handlers import fee_warning
from handlers.kit.context import Push
from handlers.kit.merge import merge
from handlers.kit.subscriptions import subscriptions_of
from handlers.session_records import session_of
from ingest.events import SessionComplete, SessionStarted, SessionStartFailed, SessionStopped, decode
from ingest.wire.envelope import Kind
from workers.ledger import fee_warnings, pushes, sessions
from workers.ledger.fee_warnings import HANDLER, TOO_LATE, WarningFilters
from workers.ledger.fee_warnings import WarningOutcome as Became
from workers.ledger.pushes import NewPush, PushUpdate
from workers.ledger.states import DeliveryState, Outcome, PushState
from workers.ledger.tables.core_tables import deliveries as delivery_table
from workers.ledger.tables.core_tables import pushes as push_table

MINUTE = timedelta(minutes=1)
LEAD = 10 * MINUTE


@pytest.fixture
def noticed(ledger, noon):
    """Store a fee notice with its run and its pushes, and what is known of its session."""

    def notice(  # noqa: PLR0913 - the facts of a notice
        name="d1", outcome=Outcome.DONE, *, session="s1", user="u1", received_at=noon, reason=None, sent=(), ends=()
    ):
        body = {"sessionId": session, "timestamp": noon.isoformat(), "feeWillApplyFrom": (noon + LEAD).isoformat()}
        raw = json.dumps({"event": "SESSION_FEE_INCURRING", "payload": {**body, "feeType": "BLOCKING"}}).encode()
        parts = {"event": "SESSION_FEE_INCURRING", "session_id": session, "body": raw, "received_at": received_at}
        ledger.store(ledger.delivery(name, **parts))
        if outcome is not None:
            ledger.run(name, HANDLER, outcome, reason=reason)
        began = SessionStarted(session_id=session, user_id=user, at=noon - LEAD)
        with ledger.begin() as conn:
            for fact in (began, decode(Kind.EVENTS, raw), *ends):
                sessions.merge(conn, {session: partial(merge, session_of(fact))})
            for number, update in enumerate(sent):
                push = Push(update.pop("to", user), "t", "b", f"k{number}", session_id=session)
                (id_,) = pushes.insert(conn, [NewPush(name, HANDLER, f"channel-{number}", push, noon)])
                if update:
                    pushes.mark(conn, [PushUpdate(id=id_, attempt=0, **update)])

    return notice


@pytest.fixture
def listed(ledger, noon):
    """List the warnings as they are at some time, by default when the fee has long started."""

    def found(now=noon + 60 * MINUTE, **filters):
        with ledger.begin() as conn:
            return list(fee_warnings.find(conn, WarningFilters(**filters), now))

    return found


def test_the_handler_is_the_one_that_warns_and_says_when_it_is_too_late():
    assert HANDLER in [each.name for each in subscriptions_of(fee_warning)]
    assert fee_warning.TOO_LATE.startswith(TOO_LATE)


def test_a_warning_that_was_sent_has_its_lead(noticed, listed, noon):
    noticed(sent=[{"state": PushState.DEAD, "error": "no"}, {"state": PushState.SENT, "sent_at": noon + MINUTE}])
    (row,) = listed()
    assert (row.outcome, row.reason, row.lead_seconds) == (Became.SENT, None, 540)
    assert (row.session_id, row.user_id, row.fee_type, row.fee_will_apply_from, row.received_at, row.sent_at) == (
        *("s1", "u1", "BLOCKING", noon + LEAD, noon, noon + MINUTE),
    )


@pytest.mark.parametrize(
    ("push", "outcome", "reason"),
    [
        ({}, Became.WAITING, "to be sent"),
        ({"state": PushState.EXPIRED}, Became.LATE, "its time had passed before it could be sent"),
        ({"state": PushState.DEAD, "error": "the key is wrong"}, Became.DEAD, "the key is wrong"),
        ({"state": PushState.MOOT, "error": "the driver has no device"}, Became.MOOT, "the driver has no device"),
        ({"state": PushState.SENT, "sent_at": LEAD}, Became.LATE, "sent after the fee had started"),
    ],
)
def test_the_outcome_is_that_of_its_push(noticed, listed, noon, push, outcome, reason):  # noqa: PLR0913, PLR0917 - a table
    noticed(sent=[{name: noon + value if name == "sent_at" else value for name, value in push.items()}])
    (row,) = listed()
    assert (row.outcome, row.reason) == (outcome, reason)


@pytest.mark.parametrize(
    ("run", "reason", "outcome"),
    [
        (Outcome.MOOT, "the session is over", Became.MOOT),
        (Outcome.MOOT, "no event of the session has named its driver", Became.MOOT),
        (Outcome.MOOT, f"{TOO_LATE}: the fee has started", Became.LATE),
        (Outcome.AGAIN, "no event of the session has named its driver", Became.WAITING),
        (Outcome.WAITING, None, Became.WAITING),
        (Outcome.DEAD, "gave up", Became.DEAD),
        (Outcome.DONE, None, Became.MOOT),
    ],
)
def test_a_warning_that_was_not_made_says_why(noticed, listed, run, reason, outcome):
    noticed(outcome=run, reason=reason)
    (row,) = listed()
    assert (row.outcome, row.sent_at, row.lead_seconds) == (outcome, None, None)
    assert row.reason == (reason or (None if run is Outcome.WAITING else "an earlier notice has said the same"))


@pytest.mark.parametrize(("run", "outcome"), [(Outcome.DEAD, Became.DEAD), (Outcome.AGAIN, Became.WAITING)])
def test_of_an_error_only_the_type_is_told_since_its_message_may_name_the_driver(noticed, listed, ledger, run, outcome):
    noticed(outcome=None)
    ledger.run("d1", HANDLER, run, reason="no phone of u1", error="ValueError: no phone of u1")
    (row,) = listed()
    assert (row.outcome, row.reason) == (outcome, "ValueError")


def test_a_notice_that_cannot_be_read_is_listed_with_its_reason(ledger, listed):
    broken = ledger.delivery("d1", event="SESSION_FEE_INCURRING", body=b'{"event": "SESSION_FEE_INCURRING"}')
    ledger.store(broken, state=DeliveryState.UNREADABLE)
    (row,) = listed()
    assert (row.outcome, row.fee_type, row.fee_will_apply_from, row.fee_avoided) == (Became.DEAD, None, None, None)


@pytest.mark.parametrize(
    ("ends", "now", "ended", "avoided"),
    [
        ([(SessionStopped, 9)], 60, 9, True),
        ([(SessionStopped, 9), (SessionComplete, 40)], 60, 9, True),
        ([(SessionComplete, 9)], 60, 9, True),
        ([(SessionStopped, 11)], 60, 11, False),
        ([(SessionStartFailed, 9)], 60, 9, True),
        ([(SessionStopped, 3), (SessionStarted, 5)], 60, None, False),
        ([], 60, None, False),
        ([], 5, None, None),
    ],
)
def test_a_fee_is_avoided_if_the_session_ended_before_it(noticed, listed, noon, ends, now, ended, avoided):  # noqa: PLR0913, PLR0917 - a table
    facts = [kind(session_id="s1", user_id="u1", at=noon + minute * MINUTE) for kind, minute in ends]
    noticed(ends=facts)
    (row,) = listed(now=noon + now * MINUTE)
    assert row.session_ended_at == (None if ended is None else noon + ended * MINUTE)
    assert row.fee_avoided is avoided


def test_warnings_are_found_by_time_session_and_driver_in_any_case(noticed, listed, noon):
    noticed("d1", session="s1", user="driver@example.com", received_at=noon)
    noticed("d2", session="s2", user="Driver@Example.com", received_at=noon + MINUTE, sent=[{}])
    noticed("d3", session="s3", user="another", received_at=noon + 2 * MINUTE, sent=[{}])
    assert [row.session_id for row in listed()] == ["s3", "s2", "s1"]
    assert [row.session_id for row in listed(user_id="DRIVER@example.com")] == ["s2", "s1"]
    assert [row.session_id for row in listed(session_id="s2")] == ["s2"]
    assert [row.session_id for row in listed(since=noon + MINUTE, until=noon + 2 * MINUTE)] == ["s2"]


def test_a_notice_of_a_session_that_changed_hands_is_a_warning_of_each_driver(noticed, listed, noon):
    noticed(sent=[{"to": "before", "state": PushState.SENT, "sent_at": noon}, {"to": "after"}])
    assert [(row.user_id, row.outcome) for row in listed()] == [("after", Became.WAITING), ("before", Became.SENT)]
    assert [row.user_id for row in listed(user_id="before")] == ["before"]


def test_what_was_pushed_is_known_of_a_fee_whose_notice_was_erased(ledger, noticed, listed, noon):
    noticed(sent=[{"state": PushState.SENT, "sent_at": noon}])
    with ledger.begin() as conn:
        conn.execute(update(delivery_table).values(body=b""))
        assert [row.fee_type for row in fee_warnings.find(conn, WarningFilters(), noon)] == [None]
        fee = {"fee_type": "CONGESTION", "fee_will_apply_from": (noon + LEAD).isoformat()}
        conn.execute(update(push_table).values(payload=fee))
    (row,) = listed()
    assert (row.fee_type, row.fee_will_apply_from, row.lead_seconds) == ("CONGESTION", noon + LEAD, 600)


def test_a_session_that_is_not_known_leaves_the_rest_open(ledger, listed):
    ledger.store(ledger.delivery("d1", event="SESSION_FEE_INCURRING", session_id="s9"))
    (row,) = listed()
    assert (row.session_id, row.user_id, row.fee_avoided) == ("s9", None, None)
