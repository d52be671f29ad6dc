"""The audit finds each kind of loss and double, which these tests make in a ledger."""

from collections import Counter
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
from tests.faults.audit import audit, compare, pushed_more_than_once, read_books
from tests.faults.effects import effects, metadata
from tests.faults.load import FIRST_AT, amount, item, misbehaving_event
from workers.ledger import sessions
from workers.ledger.database.engine import create_ledger_engine
from workers.ledger.database.migrate import migrate
from workers.ledger.states import WHOLE_DELIVERY, DeliveryState, Outcome, PushState
from workers.ledger.tables.core_tables import deliveries, pushes, runs
from workers.ledger.tables.core_tables import sessions as sessions_table

SKEW = timedelta(minutes=5)
ITEMS = {"started": item(0), "misbehaved": misbehaving_event("fork", 1), "cdr": item(4)}
STARTED, MISBEHAVED, CDR = (each.id for each in ITEMS.values())


@pytest.fixture
def cluster(tmp_path):
    """Return a ledger with a started session and its push, an event at which a handler misbehaves, and a CDR."""
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    migrate(url)
    engine = create_ledger_engine(url)
    metadata.create_all(engine)
    pushed = tmp_path / "pushed"
    pushed.write_text("hello\n")
    with engine.begin() as conn:
        for number, each in enumerate(ITEMS.values()):
            decoded, received_at = decode(each.kind, each.body), FIRST_AT + timedelta(seconds=number)
            if each.kind is Kind.EVENTS:
                part = with_clock_skew(session_of(decoded), decoded.at, received_at, SKEW)
                sessions.merge(conn, {decoded.session_id: lambda _known, part=part: part})
            conn.execute(
                insert(deliveries).values(
                    id=each.id,
                    kind=each.kind,
                    session_id=each.session_id,
                    received_at=received_at,
                    signed_with="current",
                    headers={},
                    body=each.body,
                    inbox="here",
                    state=DeliveryState.SETTLED,
                    stored_at=FIRST_AT,
                    settled_at=FIRST_AT,
                )
            )
            handler = "record_in_batch" if each.kind is Kind.EVENTS else "record_cdr"
            conn.execute(insert(effects).values(delivery_id=each.id, handler=handler))
        record = {"position": 0, "identity": "r1", "content": "", "notes": [], "document": ""}
        record |= {"received_at": FIRST_AT, "recorded_at": FIRST_AT}
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
        "created_at": FIRST_AT,
        "sent_at": FIRST_AT,
        "attempts": 1,
    }


def change(cluster, *statements):
    with cluster.engine.begin() as conn:
        for statement in statements:
            conn.execute(statement)


def discrepancies(cluster):
    found = audit(cluster, {STARTED, MISBEHAVED, CDR}, {STARTED, MISBEHAVED, CDR})
    return found.lost, found.doubled, found.stuck


def dead_run(handler):
    run = {"delivery_id": MISBEHAVED, "handler": handler, "queue": "default", "outcome": Outcome.DEAD}
    dead = update(deliveries).where(deliveries.c.id == MISBEHAVED).values(state=DeliveryState.DEAD)
    return insert(runs).values(run | {"attempts": 2, "deaths": 2, "finished_at": FIRST_AT}), dead


def test_a_correct_ledger_has_no_discrepancies(cluster):
    assert discrepancies(cluster) == ([], [], [])


def test_an_acknowledged_delivery_that_is_not_in_the_ledger_is_lost(cluster):
    change(cluster, delete(deliveries).where(deliveries.c.id == MISBEHAVED))
    lost, _, _ = discrepancies(cluster)
    assert f"{MISBEHAVED} was acknowledged and is not in the ledger" in lost


@pytest.mark.parametrize("state", [PushState.DEAD, PushState.EXPIRED, PushState.MOOT])
def test_a_push_that_ended_without_being_sent_is_lost(cluster, state):
    change(cluster, update(pushes).values(state=state, sent_at=None))
    cluster.pushed.write_text("")
    assert discrepancies(cluster) == ([f"push hello is {state}"], [], [])


def test_a_push_that_is_marked_sent_and_was_not_received_is_lost(cluster):
    cluster.pushed.write_text("")
    assert discrepancies(cluster) == (["push hello was not sent"], [], [])


def test_a_waiting_push_is_stuck(cluster):
    change(cluster, update(pushes).values(state=PushState.WAITING, due_at=FIRST_AT, sent_at=None))
    assert discrepancies(cluster) == ([], [], ["push hello waits"])


def test_a_second_effect_is_a_double_even_if_a_handler_misbehaves(cluster):
    again = [insert(effects).values(delivery_id=each, handler="record_in_batch") for each in (STARTED, MISBEHAVED)]
    change(cluster, *again, *dead_run(WHOLE_DELIVERY))
    assert discrepancies(cluster) == (
        [],
        [f"{each}: record_in_batch: 2 instead of 1" for each in (STARTED, MISBEHAVED)],
        [],
    )


def test_the_effects_of_other_handlers_are_expected_if_one_misbehaves(cluster):
    change(cluster, delete(effects).where(effects.c.delivery_id == MISBEHAVED), *dead_run("misbehave"))
    assert discrepancies(cluster) == ([f"{MISBEHAVED}: record_in_batch: 0 instead of 1"], [], [])


def test_effects_are_expected_even_if_a_handler_that_misbehaves_ended_the_whole_delivery(cluster):
    change(cluster, delete(effects).where(effects.c.delivery_id == MISBEHAVED), *dead_run(WHOLE_DELIVERY))
    assert discrepancies(cluster) == ([f"{MISBEHAVED}: record_in_batch: 0 instead of 1"], [], [])


def test_only_a_delivery_at_which_a_handler_misbehaves_may_end_dead(cluster):
    change(cluster, update(deliveries).where(deliveries.c.id == STARTED).values(state=DeliveryState.DEAD))
    assert discrepancies(cluster) == ([f"{STARTED} is dead"], [], [])


def test_a_body_that_was_changed_is_lost_although_its_record_is_right(cluster):
    other = item(4).body.replace(b"EUR", b"SEK")
    change(cluster, update(deliveries).where(deliveries.c.id == CDR).values(body=other))
    assert discrepancies(cluster) == ([f"{CDR} has another body than the one sent"], [], [])


@pytest.mark.parametrize("wrong", [update(cdrs).values(amount=Decimal(4)), delete(cdrs)])
def test_a_cdr_without_its_amount_on_record_is_lost(cluster, wrong):
    change(cluster, wrong)
    assert discrepancies(cluster) == ([f"{CDR} has no record of its amount"], [], [])


def test_a_record_that_was_never_sent_is_a_double(cluster):
    change(cluster, update(sessions_table).where(sessions_table.c.session_id == "s0").values(session_id="s1"))
    assert discrepancies(cluster) == (["session s0 is not what its events say"], ["s1 was never sent"], [])


def test_a_push_that_was_received_twice_is_found(cluster):
    assert pushed_more_than_once(cluster) == set()
    cluster.pushed.write_text("hello\nother\nhello\n")
    assert pushed_more_than_once(cluster) == {"hello"}


def discrepancies_of(cluster, *ids):
    pushed = Counter(cluster.pushed.read_text().split())
    found = compare(read_books(cluster, set(ids), pushed), set(ids), set(ids), SKEW, only=set(ids))
    return found.lost, found.doubled, found.stuck


def test_some_deliveries_are_audited_alone(cluster):
    assert discrepancies_of(cluster, STARTED, CDR) == ([], [], [])
    change(cluster, delete(effects), delete(cdrs), insert(effects).values(delivery_id=CDR, handler="record_cdr"))
    assert discrepancies_of(cluster, STARTED) == ([f"{STARTED}: record_in_batch: 0 instead of 1"], [], [])
    assert discrepancies_of(cluster, CDR) == ([f"{CDR} has no record of its amount"], [], [])


def test_a_body_that_retention_deleted_cannot_be_audited_and_is_no_part_of_its_session(cluster):
    change(cluster, update(deliveries).where(deliveries.c.id == STARTED).values(body=b"", body_deleted_at=FIRST_AT))
    late = [f"{STARTED} was settled so late that retention was faster than the audit"]
    assert discrepancies_of(cluster, STARTED) == ([], [], late)
    assert discrepancies_of(cluster, CDR) == ([], [], [])
