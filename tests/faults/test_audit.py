"""The books see what they are kept for: each kind of loss and double, made by hand in a ledger."""

from datetime import timedelta
from types import SimpleNamespace

import pytest
from sqlalchemy import delete, insert, update

from handlers.kit.merge import with_lead
from handlers.session_records import session_of
from ingest.envelope import Kind
from ingest.events import decode
from tests.faults.audit import audit
from tests.faults.effects import effects, metadata
from tests.faults.load import BEGAN_AT, event, misdeed
from workers.ledger import sessions
from workers.ledger.engine import open_ledger
from workers.ledger.migrate import migrate
from workers.ledger.outcomes import WHOLE_DELIVERY, DeliveryState, Outcome, PushState
from workers.ledger.tables import deliveries, pushes, runs

SKEW = timedelta(minutes=5)
STARTED, MISDEED = "a", "b"


@pytest.fixture
def stage(tmp_path):
    """A session that has started, with its push, and a misdeed; all of it done as it should be."""
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    migrate(url)
    engine = open_ledger(url)
    metadata.create_all(engine)
    pushed = tmp_path / "pushed"
    pushed.write_text("hello\n")
    with engine.begin() as conn:
        for number, (delivery_id, body) in enumerate({STARTED: event(0), MISDEED: misdeed("fork", 1)}.items()):
            said = decode(Kind.EVENTS, body)
            part = with_lead(session_of(said), said.at, BEGAN_AT + timedelta(seconds=number), SKEW)
            sessions.merge(conn, {said.session_id: lambda _known, part=part: part})
            conn.execute(
                insert(deliveries).values(
                    id=delivery_id,
                    kind=Kind.EVENTS,
                    event=said.name,
                    session_id=said.session_id,
                    received_at=BEGAN_AT + timedelta(seconds=number),
                    signed_with="current",
                    headers={},
                    body=body,
                    inbox="here",
                    state=DeliveryState.SETTLED,
                    stored_at=BEGAN_AT,
                    settled_at=BEGAN_AT,
                )
            )
            conn.execute(insert(effects).values(delivery_id=delivery_id, handler="note_here"))
        conn.execute(insert(pushes).values(push()))
    yield SimpleNamespace(engine=engine, pushed=pushed, skew=SKEW, inboxes=list)
    engine.dispose()


def push():
    return {
        "id": "hello",
        "delivery_id": STARTED,
        "handler": "greet",
        "user_id": "driver",
        "channel": "file",
        "state": PushState.SENT,
        "title": "",
        "body": "",
        "payload": {},
        "collapse_key": "hello",
        "created_at": BEGAN_AT,
        "sent_at": BEGAN_AT,
        "attempts": 1,
    }


def change(stage, *statements):
    with stage.engine.begin() as conn:
        for statement in statements:
            conn.execute(statement)


def books(stage):
    found = audit(stage, {STARTED, MISDEED}, {STARTED, MISDEED})
    return found.lost, found.doubled, found.stuck


def given_up(handler):
    run = {"delivery_id": MISDEED, "handler": handler, "queue": "default", "outcome": Outcome.DEAD}
    dead = update(deliveries).where(deliveries.c.id == MISDEED).values(state=DeliveryState.DEAD)
    return insert(runs).values(run | {"attempts": 2, "deaths": 2, "finished_at": BEGAN_AT}), dead


def test_where_all_is_well_nothing_is_wrong(stage):
    assert books(stage) == ([], [], [])


def test_what_was_acknowledged_and_is_not_there_is_lost(stage):
    change(stage, delete(deliveries).where(deliveries.c.id == MISDEED))
    lost, _, _ = books(stage)
    assert "b was acknowledged, and is not in the ledger" in lost


@pytest.mark.parametrize("state", [PushState.DEAD, PushState.EXPIRED, PushState.MOOT])
def test_a_push_that_ended_without_being_sent_is_lost(stage, state):
    change(stage, update(pushes).values(state=state, sent_at=None))
    stage.pushed.write_text("")
    assert books(stage) == ([f"push hello is {state}"], [], [])


def test_a_push_that_is_said_to_be_sent_and_was_not_is_lost(stage):
    stage.pushed.write_text("")
    assert books(stage) == (["push hello was not sent"], [], [])


def test_a_push_that_waits_is_stuck(stage):
    change(stage, update(pushes).values(state=PushState.WAITING, due_at=BEGAN_AT, sent_at=None))
    assert books(stage) == ([], [], ["push hello waits"])


def test_a_second_row_is_a_double_also_where_a_handler_misbehaves(stage):
    again = [insert(effects).values(delivery_id=each, handler="note_here") for each in (STARTED, MISDEED)]
    change(stage, *again, *given_up(WHOLE_DELIVERY))
    assert books(stage) == ([], ["a: note_here: 2 instead of 1", "b: note_here: 2 instead of 1"], [])


def test_the_others_effects_stand_where_one_handler_misbehaves(stage):
    change(stage, delete(effects).where(effects.c.delivery_id == MISDEED), *given_up("misbehave"))
    assert books(stage) == (["b: note_here: 0 instead of 1"], [], [])


def test_where_a_misdeed_costs_the_whole_delivery_nothing_else_need_be_done(stage):
    change(stage, delete(effects).where(effects.c.delivery_id == MISDEED), *given_up(WHOLE_DELIVERY))
    assert books(stage) == ([], [], [])


def test_only_a_misdeed_may_end_dead(stage):
    change(stage, update(deliveries).where(deliveries.c.id == STARTED).values(state=DeliveryState.DEAD))
    assert books(stage) == (["a is dead"], [], [])
