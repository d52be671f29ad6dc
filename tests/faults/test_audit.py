"""The books see what they are kept for: each kind of loss and double, made by hand in a ledger."""

from datetime import timedelta
from decimal import Decimal
from types import SimpleNamespace

import pytest
from sqlalchemy import delete, insert, update

from handlers.kit.cdr_table import cdrs
from handlers.kit.merge import with_clock_skew
from handlers.session_records import session_of
from ingest.events import decode
from ingest.wire.envelope import Kind
from tests.faults.audit import audit, pushed_twice
from tests.faults.effects import effects, metadata
from tests.faults.load import BEGAN_AT, amount, item, misbehaviour
from workers.ledger import sessions
from workers.ledger.database.engine import create_ledger_engine
from workers.ledger.database.migrate import migrate
from workers.ledger.states import WHOLE_DELIVERY, DeliveryState, Outcome, PushState
from workers.ledger.tables.core_tables import deliveries, pushes, runs
from workers.ledger.tables.core_tables import sessions as sessions_table

SKEW = timedelta(minutes=5)
ITEMS = {"started": item(0), "misdeed": misbehaviour("fork", 1), "cdr": item(4)}
STARTED, MISDEED, CDR = (each.id for each in ITEMS.values())


@pytest.fixture
def cluster(tmp_path):
    """A session that has started, with its push, a misdeed, and a CDR; all of it done as it should be."""
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    migrate(url)
    engine = create_ledger_engine(url)
    metadata.create_all(engine)
    pushed = tmp_path / "pushed"
    pushed.write_text("hello\n")
    with engine.begin() as conn:
        for number, each in enumerate(ITEMS.values()):
            said, received_at = decode(each.kind, each.body), BEGAN_AT + timedelta(seconds=number)
            if each.kind is Kind.EVENTS:
                part = with_clock_skew(session_of(said), said.at, received_at, SKEW)
                sessions.merge(conn, {said.session_id: lambda _known, part=part: part})
            conn.execute(
                insert(deliveries).values(
                    id=each.id,
                    kind=each.kind,
                    received_at=received_at,
                    signed_with="current",
                    headers={},
                    body=each.body,
                    inbox="here",
                    state=DeliveryState.SETTLED,
                    stored_at=BEGAN_AT,
                    settled_at=BEGAN_AT,
                )
            )
            noted_by = "note_here" if each.kind is Kind.EVENTS else "note_record"
            conn.execute(insert(effects).values(delivery_id=each.id, handler=noted_by))
        record = {"notes": [], "document": "", "received_at": BEGAN_AT, "recorded_at": BEGAN_AT}
        conn.execute(insert(cdrs).values(delivery_id=CDR, amount=Decimal(amount(4)), **record))
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


def change(cluster, *statements):
    with cluster.engine.begin() as conn:
        for statement in statements:
            conn.execute(statement)


def books(cluster):
    found = audit(cluster, {STARTED, MISDEED, CDR}, {STARTED, MISDEED, CDR})
    return found.lost, found.doubled, found.stuck


def given_up(handler):
    run = {"delivery_id": MISDEED, "handler": handler, "queue": "default", "outcome": Outcome.DEAD}
    dead = update(deliveries).where(deliveries.c.id == MISDEED).values(state=DeliveryState.DEAD)
    return insert(runs).values(run | {"attempts": 2, "deaths": 2, "finished_at": BEGAN_AT}), dead


def test_where_all_is_well_nothing_is_wrong(cluster):
    assert books(cluster) == ([], [], [])


def test_what_was_acknowledged_and_is_not_there_is_lost(cluster):
    change(cluster, delete(deliveries).where(deliveries.c.id == MISDEED))
    lost, _, _ = books(cluster)
    assert f"{MISDEED} was acknowledged, and is not in the ledger" in lost


@pytest.mark.parametrize("state", [PushState.DEAD, PushState.EXPIRED, PushState.MOOT])
def test_a_push_that_ended_without_being_sent_is_lost(cluster, state):
    change(cluster, update(pushes).values(state=state, sent_at=None))
    cluster.pushed.write_text("")
    assert books(cluster) == ([f"push hello is {state}"], [], [])


def test_a_push_that_is_said_to_be_sent_and_was_not_is_lost(cluster):
    cluster.pushed.write_text("")
    assert books(cluster) == (["push hello was not sent"], [], [])


def test_a_push_that_waits_is_stuck(cluster):
    change(cluster, update(pushes).values(state=PushState.WAITING, due_at=BEGAN_AT, sent_at=None))
    assert books(cluster) == ([], [], ["push hello waits"])


def test_a_second_row_is_a_double_also_where_a_handler_misbehaves(cluster):
    again = [insert(effects).values(delivery_id=each, handler="note_here") for each in (STARTED, MISDEED)]
    change(cluster, *again, *given_up(WHOLE_DELIVERY))
    assert books(cluster) == ([], [f"{each}: note_here: 2 instead of 1" for each in (STARTED, MISDEED)], [])


def test_the_others_effects_stand_where_one_handler_misbehaves(cluster):
    change(cluster, delete(effects).where(effects.c.delivery_id == MISDEED), *given_up("misbehave"))
    assert books(cluster) == ([f"{MISDEED}: note_here: 0 instead of 1"], [], [])


def test_that_a_misdeed_cost_the_whole_delivery_excuses_nothing(cluster):
    change(cluster, delete(effects).where(effects.c.delivery_id == MISDEED), *given_up(WHOLE_DELIVERY))
    assert books(cluster) == ([f"{MISDEED}: note_here: 0 instead of 1"], [], [])


def test_only_a_misdeed_may_end_dead(cluster):
    change(cluster, update(deliveries).where(deliveries.c.id == STARTED).values(state=DeliveryState.DEAD))
    assert books(cluster) == ([f"{STARTED} is dead"], [], [])


def test_a_body_that_was_changed_on_its_way_is_lost_whatever_its_record_says(cluster):
    other = item(4).body.replace(b"EUR", b"SEK")
    change(cluster, update(deliveries).where(deliveries.c.id == CDR).values(body=other))
    assert books(cluster) == ([f"{CDR} has another body than was sent"], [], [])


@pytest.mark.parametrize("wrong", [update(cdrs).values(amount=Decimal(4)), delete(cdrs)])
def test_a_cdr_whose_amount_is_not_on_record_is_lost(cluster, wrong):
    change(cluster, wrong)
    assert books(cluster) == ([f"{CDR} has no record of its amount"], [], [])


def test_a_record_of_what_nobody_has_sent_is_a_double(cluster):
    change(cluster, update(sessions_table).where(sessions_table.c.session_id == "s0").values(session_id="s1"))
    assert books(cluster) == (["session s0 is not what its events say"], ["nobody told of s1"], [])


def test_a_push_that_went_out_twice_is_told_apart(cluster):
    assert pushed_twice(cluster) == set()
    cluster.pushed.write_text("hello\nother\nhello\n")
    assert pushed_twice(cluster) == {"hello"}
