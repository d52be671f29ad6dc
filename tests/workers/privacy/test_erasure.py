"""A driver is erased from the ledger, and nothing else changes."""

import contextlib
import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from sqlalchemy import select

from handlers.kit.cdr_table import cdrs
from handlers.kit.channel import Device
from handlers.kit.context import Push
from handlers.kit.session import DRIVE, DriverAssignment, Session, StatusTimes
from ingest.queue.erasure_orders import ErasureOrder, erasure_digest
from ingest.wire.envelope import Kind
from tests.workers.commands.conftest import delivery_of
from workers.ledger import authorizations as ledger_authorizations
from workers.ledger import charging_key_usage, deliveries, devices, pushes
from workers.ledger import sessions as ledger_sessions
from workers.ledger.authorizations import DecisionRow
from workers.ledger.database.engine import read_only
from workers.ledger.database.transaction import run_in_transaction
from workers.ledger.invariants import check_invariants
from workers.ledger.pushes import NewPush
from workers.ledger.session_erasure import erased_of_driver
from workers.ledger.states import BodyDeletion, DeliveryState, Outcome
from workers.ledger.tables import metadata
from workers.ledger.tables.alert_tables import alerts
from workers.ledger.tables.authorization_tables import authorizations
from workers.ledger.tables.core_tables import deliveries as delivery_table
from workers.ledger.tables.core_tables import devices as device_table
from workers.ledger.tables.core_tables import pushes as push_table
from workers.ledger.tables.core_tables import sessions
from workers.privacy import erasure
from workers.privacy.erasure import Erasure, erase, order_of, remember, salt_of
from workers.privacy.erasure_targets import find_targets
from workers.privacy.late_erasure import LateErasureTask

DONE = ("session_record", Outcome.DONE)
CDR_DONE = ("cdr_record", Outcome.DONE)
DRIVER = "Jane.Doe@example.com"
PLATE = "M-XY 123"


def erase_user(node, user, **what):
    erasure, targets = Erasure(), find_targets(node.engine, user=user, **what)
    with node.engine.begin() as ledger:
        remember(ledger, order_of(erasure, salt_of(node.engine), targets))
    counts = erase(node.engine, erasure, targets)
    with read_only(node.engine) as ledger:
        assert not list(check_invariants(ledger))
    return counts


def everything(node):
    """All rows of all tables, as text."""
    with read_only(node.engine) as ledger:
        return {
            table.name: [str(tuple(row)) for row in ledger.execute(select(table))] for table in metadata.sorted_tables
        }


def live(node, event, user=DRIVER, session="s-1"):
    """Let a driver charge: events, a failing run, a push, a device, an alert, a CDR."""
    ids = [
        node.settle(event("SESSION_STARTED", session, userId=user, plate=PLATE), DONE),
        node.settle(event("SESSION_FEE_INCURRING", session), ("warn_the_driver", Outcome.DEAD), error=f"no {user}"),
        node.settle(event("SESSION_STOPPED", session, note="open"), ("thanks", Outcome.AGAIN), error=f"no {user}"),
        node.settle(json.dumps({"free": f"by {user}"}).encode()),
        node.settle(json.dumps({"id": f"cdr-{session}", "userId": user}).encode(), CDR_DONE, kind=Kind.CDRS),
    ]
    with node.engine.begin() as ledger:
        push = Push(user_id=user, title="Fee", body=f"Soon, {user}", collapse_key=f"fee:{session}", session_id=session)
        pushes.insert(ledger, [NewPush(ids[1], "warn_the_driver", "log", push, _now())])
        ledger.execute(device_table.insert().values(token=f"token-{session}-{user}", user_id=user, updated_at=_now()))
        cdr = {"delivery_id": ids[4], "position": 0, "request_id": f"cdr-{session}", "identity": f"cdr-{session}"}
        cdr |= {"content": "c", "session_id": session, "user_id": user, "charging_key": f"key-{session}", "notes": []}
        cdr |= {"amount": Decimal("12.5"), "currency": "EUR", "document": json.dumps({"userId": user})}
        ledger.execute(cdrs.insert().values(**cdr, received_at=_now(), recorded_at=_now()))
        row = {
            "id": f"alert-{session}",
            "kind": "dead_letter",
            "subject": f"x-{session}",
            "sentence": f"{user} has no device",
        }
        ledger.execute(alerts.insert().values(**row, raised_at=_now()))
    return ids


def _now():
    return datetime.now(UTC)


def test_nothing_in_any_table_names_an_erased_driver_and_all_else_is_as_before(any_node, event):
    live(any_node, event, "driver-2", "s-2")
    before = everything(any_node)
    live(any_node, event)

    counts = erase_user(any_node, DRIVER.lower())

    after = everything(any_node)
    for name in (DRIVER, PLATE, "s-1", "key-s-1", "token-s-1"):
        assert not [row for rows in after.values() for row in rows if f"'{name}" in row or f" {name}" in row], name
    assert counts["deliveries"] == 5
    assert counts["cdrs"] == counts["sessions"] == counts["pushes"] == counts["alerts"] == 1
    del before["signing_key_uses"]  # it goes on counting, and names nobody
    for table, rows in before.items():
        assert set(rows) <= set(after[table]), table


def test_deliveries_become_tombstones_that_know_their_duplicates(any_node, event):
    id_, *_ = live(any_node, event)
    erase_user(any_node, DRIVER)
    body = event("SESSION_STARTED", "s-1", userId=DRIVER, plate=PLATE)

    with any_node.engine.begin() as ledger:
        assert not deliveries.store(ledger, [delivery_of(body)], {id_: (DeliveryState.RUNNING, None)})
        row = deliveries.get(ledger, id_)

    assert (row.state, row.event, row.session_id, row.body) == ("settled", "SESSION_STARTED", None, b"")
    assert row.body_deletion is BodyDeletion.ERASURE
    assert [run.outcome for run in row.runs] == [Outcome.DONE]


def test_totals_of_charging_records_stay_exact(any_node, event):
    live(any_node, event)
    live(any_node, event, DRIVER, "s-3")
    totals = select(cdrs.c.amount, cdrs.c.currency, cdrs.c.request_id).order_by(cdrs.c.request_id)
    with read_only(any_node.engine) as ledger:
        before = ledger.execute(totals).all()

    erase_user(any_node, DRIVER)

    with read_only(any_node.engine) as ledger:
        assert ledger.execute(totals).all() == before
        (user_id,) = set(ledger.scalars(select(cdrs.c.user_id)))
    assert user_id.startswith("erased-")


def test_decisions_and_devices_of_a_driver_are_erased(any_node, event):
    live(any_node, event)
    row = {"at": _now(), "form": "ocpi", "decision": "ALLOWED", "latency_us": 1, "repeated": False}
    with any_node.engine.begin() as ledger:
        ledger.execute(authorizations.insert().values(**row, id="a1", session_id="s-1"))
        ledger.execute(authorizations.insert().values(**row, id="a2", key="key-s-1"))
        ledger.execute(authorizations.insert().values(**row, id="a3", key="key-s-10"))

    erase_user(any_node, DRIVER)

    with read_only(any_node.engine) as ledger:
        assert list(ledger.scalars(select(authorizations.c.id))) == ["a3"]
        assert not list(ledger.scalars(select(device_table.c.token)))


def test_the_use_of_each_key_of_a_driver_is_forgotten(any_node, event):
    live(any_node, event)
    parts = {"form": "ocpi", "decision": "ALLOWED", "policy": None, "reason": None, "latency_us": 1}
    with any_node.engine.begin() as ledger:
        decided = [("a1", "s-1", "card-1"), ("a2", None, "key-s-1"), ("a3", "s-2", "card-2")]
        rows = [DecisionRow(id_, _now(), **parts, session_id=session, key=key) for id_, session, key in decided]
        ledger_authorizations.insert(ledger, rows)

    erase_user(any_node, DRIVER)

    with read_only(any_node.engine) as ledger:
        assert [use.key for use in charging_key_usage.find(ledger)] == ["card-2"]


def test_a_name_within_a_longer_one_is_somebody_else(any_node, event):
    id_ = any_node.settle(event("SESSION_STARTED", "s-9", userId="driver-77"), DONE)
    any_node.settle(event("SESSION_STARTED", "s-8", userId="driver-7"), DONE)

    assert erase_user(any_node, "driver-7")["deliveries"] == 1

    with read_only(any_node.engine) as ledger:
        assert b"driver-77" in deliveries.get(ledger, id_).body
        assert list(ledger.scalars(select(sessions.c.user_id))) == ["driver-77"]


def test_only_one_session_is_erased_where_that_is_asked_for(any_node, event):
    live(any_node, event)
    live(any_node, event, DRIVER, "s-3")

    erase_user(any_node, None, session_ids=["s-1"])

    with read_only(any_node.engine) as ledger:
        assert list(ledger.scalars(select(sessions.c.session_id))) == ["s-3"]


def test_what_comes_late_of_an_erased_session_is_erased_too(any_node, event, valkey):
    live(any_node, event)
    erase_user(any_node, DRIVER)
    other = any_node.settle(event("SESSION_STARTED", "s-4", userId="driver-4"), DONE, received_at=_now())
    late = any_node.settle(event("SESSION_COMPLETE", "s-1", userId=DRIVER), DONE, received_at=_now())

    LateErasureTask(any_node.engine, valkey).run()

    with read_only(any_node.engine) as ledger:
        assert deliveries.get(ledger, late).body == b""
        assert deliveries.get(ledger, other).body
        assert list(ledger.scalars(select(sessions.c.session_id))) == ["s-4"]


def test_what_came_before_and_was_stored_after_the_erasure_of_its_driver_is_erased(any_node, event, valkey):
    erase_user(any_node, DRIVER)
    before = any_node.settle(
        event("SESSION_STARTED", "s-5", userId=DRIVER), DONE, received_at=_now() - timedelta(hours=1)
    )
    back = any_node.settle(
        event("SESSION_STARTED", "s-6", userId=DRIVER), DONE, received_at=_now() + timedelta(hours=1)
    )

    LateErasureTask(any_node.engine, valkey).run()

    with read_only(any_node.engine) as ledger:
        assert deliveries.get(ledger, before).body == b""
        assert deliveries.get(ledger, back).body, "the driver has come back"


@pytest.mark.parametrize(
    "text", [b'{"a": ["JANE.doe@example.com"]}', b"user=jane.doe@example.com&x", b'"jane\\u002edoe@example.com"']
)
def test_an_order_recognizes_a_name_in_any_text_and_has_none(text):
    order = ErasureOrder("e1", 0.0, "salt", frozenset({erasure_digest("salt", DRIVER)}))

    assert order.is_in(text)
    assert not order.is_in(b'{"a": "jane.doe@example.com.org"}', None, b"\xff")
    assert "jane" not in json.dumps(order.to_fields()).lower()


def test_who_has_other_letters_is_not_erased_for_what_upper_case_makes_of_them(any_node, event):
    any_node.settle(event("SESSION_STARTED", "s-1", userId="weiß@example.com"), DONE)
    with any_node.engine.begin() as ledger:
        devices.upsert(ledger, "weiß@example.com", Device("theirs"), _now())
        devices.upsert(ledger, "weiss@example.com", Device("of-another"), _now())

    erase_user(any_node, "WEIß@example.com")

    with any_node.engine.begin() as ledger:
        assert [row.user_id for row in devices.find(ledger)] == ["weiss@example.com"]


@pytest.mark.parametrize("user", ["o'brien@example.com", "jörg@müller.example", "auth0|abc123", 'x"y-1234', "a/b/1234"])
@pytest.mark.parametrize("text", ["call from {}, angry", "({}).", "{}", "see '{}'!"])
def test_an_order_recognizes_a_name_of_any_characters_in_a_longer_text(user, text):
    order = ErasureOrder("e1", 0.0, "salt", frozenset({erasure_digest("salt", user)}))

    assert order.is_in(json.dumps({"note": text.format(user)}))
    assert order.is_in(json.dumps({"note": text.format(user.upper())}, ensure_ascii=False).encode())
    assert order.is_in(text.format(user))
    assert not order.is_in(json.dumps({"note": text.format(f"{user}x")}))


def bodies(node):
    with read_only(node.engine) as ledger:
        return [body for body in ledger.scalars(select(delivery_table.c.body)) if body]


def cdr_row(delivery_id, session, user, key):
    row = {"delivery_id": delivery_id, "position": 0, "identity": delivery_id, "content": "c", "charging_key": key}
    row |= {"session_id": session, "user_id": user, "notes": [], "document": "{}"}
    return row | {"received_at": _now(), "recorded_at": _now()}


@pytest.mark.parametrize("user", ["42", "Erik", "%", "driver_7", "a\\b%", 'x"y', "MÜLLER-é", "😀-1"])
def test_nobody_else_is_erased_whatever_the_id_is(any_node, event, user):
    others = [
        event("SESSION_STARTED", "o-1", userId="driver-7", amount=42, place="Erik 42", plug="42"),
        event("SESSION_STARTED", "o-2", userId=f"{user}x", percent="50 %"),
        event("SESSION_STARTED", "o-3", userId=f"x{user}"),
        b'{"free": "Erik paid 42", "42": 42}',
    ]
    for body in others:
        any_node.settle(body, DONE)
    any_node.settle(event("SESSION_STARTED", "s-1", userId=user), DONE)
    any_node.settle(json.dumps({"by": user}).encode())

    counts = erase_user(any_node, user)

    assert (counts["deliveries"], counts["sessions"]) == (2, 1)
    assert sorted(bodies(any_node)) == sorted(others)


@pytest.mark.parametrize(("known", "named"), [("MÜLLER", "müller"), ("müller", "MÜLLER")])
def test_a_driver_is_found_in_any_case_of_any_letter(any_node, event, known, named):
    any_node.settle(event("SESSION_STARTED", userId=known), DONE)
    any_node.settle(event("SESSION_STARTED", userId="another", sent="later"), DONE)  # the record's driver by now

    assert erase_user(any_node, named)["sessions"] == 1
    assert not bodies(any_node)


@pytest.mark.parametrize("user", ["o'brien@example.com", "jörg@müller.example", "auth0|abc123", 'x"y-1234', "a/b/1234"])
def test_a_driver_is_found_in_longer_texts_in_any_case_and_any_spelling_of_json(any_node, event, user):
    any_node.settle(event("SESSION_STARTED", userId=user), DONE)
    for number, name in enumerate((user, user.upper(), user.title())):
        note = json.dumps({"n": number, "note": f"call from {name}, angry"})
        any_node.settle(note.encode())
        any_node.settle(note.replace("/", "\\/").replace("\\u00f6", "\\u00F6").encode())
        any_node.settle(json.dumps({"n": number, "note": [name]}, ensure_ascii=False).encode())

    erase_user(any_node, user)

    assert not bodies(any_node)


def test_a_card_that_others_use_too_erases_nothing_of_theirs(any_node, event):
    any_node.settle(event("SESSION_STARTED", "s-1", userId=DRIVER), DONE)
    any_node.settle(event("SESSION_STARTED", "s-2", userId="driver-2"), DONE)
    theirs = any_node.settle(b'{"key": "card-1", "n": 2}', CDR_DONE, kind=Kind.CDRS)
    with any_node.engine.begin() as ledger:
        ledger.execute(cdrs.insert().values(**cdr_row("d-1", "s-1", DRIVER, "card-1")))
        ledger.execute(cdrs.insert().values(**cdr_row(theirs, "s-2", "driver-2", "card-1")))
        row = {"at": _now(), "form": "ocpi", "decision": "ALLOWED", "latency_us": 1, "repeated": False}
        ledger.execute(authorizations.insert().values(**row, id="a1", session_id="s-1", key="card-1"))
        ledger.execute(authorizations.insert().values(**row, id="a2", session_id="s-2", key="card-1"))

    erase_user(any_node, DRIVER)

    assert len(bodies(any_node)) == 2
    with read_only(any_node.engine) as ledger:
        assert list(ledger.scalars(select(authorizations.c.id))) == ["a2"]


def test_whoever_is_told_of_the_session_of_another_is_erased_without_it(any_node, event):
    started = event("SESSION_STARTED", "s-2", userId="driver-2")
    id_ = any_node.settle(started, DONE)
    push = {"title": "Fee", "body": "Soon", "collapse_key": "fee", "session_id": "s-2"}
    with any_node.engine.begin() as ledger:
        told = [Push(user_id=DRIVER, **push), Push(user_id="driver-2", **push)]
        pushes.insert(ledger, [NewPush(id_, "session_record", "log", each, _now()) for each in told])

    assert erase_user(any_node, DRIVER) == {"pushes": 1}

    assert bodies(any_node) == [started]


def test_a_push_that_was_made_of_what_was_erased_meanwhile_is_erased_too(any_node, event, valkey):
    erased = any_node.settle(event("SESSION_STARTED", "s-1", userId="driver-1"), DONE, received_at=_now())
    other = any_node.settle(event("SESSION_STARTED", "s-2", userId="driver-2"), DONE, received_at=_now())
    for user in ("driver-1", DRIVER):
        erase_user(any_node, user)
    back = any_node.settle(
        event("SESSION_STARTED", "s-3", userId="driver-3"), DONE, received_at=_now() + timedelta(hours=1)
    )
    told = [(erased, "someone-1"), (other, DRIVER), (other, "driver-2"), (back, DRIVER)]
    with any_node.engine.begin() as ledger:
        made = [Push(user_id=user, title="Fee", body="Soon", collapse_key="fee", session_id=None) for _, user in told]
        new = [NewPush(id_, "note", "log", push, _now()) for (id_, _), push in zip(told, made, strict=True)]
        pushes.insert(ledger, new)

    LateErasureTask(any_node.engine, valkey).run()

    with read_only(any_node.engine) as ledger:
        left = ledger.execute(select(push_table.c.delivery_id, push_table.c.user_id)).all()
    assert sorted(left) == sorted([(other, "driver-2"), (back, DRIVER)])


def test_of_an_erased_driver_the_drive_api_brings_what_began_afterwards_alone(any_node, event):
    live(any_node, event)
    erase_user(any_node, DRIVER)
    before, after = _now() - timedelta(hours=1), _now() + timedelta(hours=1)

    with any_node.engine.begin() as ledger:
        told = {"s-1": after, "s-8": before, "s-9": None, "s-10": after}
        assert erased_of_driver(ledger, DRIVER.upper(), told) == {"s-1", "s-8", "s-9"}
        assert erased_of_driver(ledger, "driver-2", {"s-2": before}) == set()


def test_what_the_drive_api_told_of_a_driver_during_the_erasure_is_erased_too(any_node, valkey):
    erase_user(any_node, DRIVER)
    with any_node.engine.begin() as ledger:
        for name, began in (("s-8", _now() - timedelta(hours=1)), ("s-9", _now() + timedelta(hours=1))):
            told = Session(
                name,
                statuses={"STARTED": StatusTimes(began, began, frozenset({DRIVE}))},
                users={DRIVER: DriverAssignment(began, DRIVE)},
            )
            ledger_sessions.merge(ledger, {name: lambda _session, told=told: told})

    LateErasureTask(any_node.engine, valkey).run()

    with read_only(any_node.engine) as ledger:
        assert list(ledger.scalars(select(sessions.c.session_id))) == ["s-9"]


@pytest.mark.parametrize("done", range(13))
def test_an_erasure_that_was_interrupted_is_repeated(node, event, monkeypatch, done):
    live(node, event)
    row = {"at": _now(), "form": "ocpi", "decision": "ALLOWED", "latency_us": 1, "repeated": False}
    with node.engine.begin() as ledger:
        ledger.execute(authorizations.insert().values(**row, id="a1", session_id="s-1"))
        ledger.execute(authorizations.insert().values(**row, id="a2", key="key-s-1"))
    steps = iter(range(done))

    def run_some(engine, work):
        if next(steps, None) is None:
            raise KeyboardInterrupt
        return run_in_transaction(engine, work)

    with monkeypatch.context() as interrupted, contextlib.suppress(KeyboardInterrupt):
        interrupted.setattr(erasure, "run_in_transaction", run_some)
        erase(node.engine, Erasure(), find_targets(node.engine, user=DRIVER))
    erase_user(node, DRIVER)

    rows = [row for found in everything(node).values() for row in found]
    assert not [row for row in rows for name in (DRIVER, PLATE, "'s-1", "key-s-1") if name in row]
    with read_only(node.engine) as ledger:
        assert not list(ledger.scalars(select(authorizations.c.id)))


def test_a_charging_record_without_a_session_that_was_on_its_way_is_erased_too(any_node, valkey):
    erase_user(any_node, DRIVER)
    hour = timedelta(hours=1)
    ids = {
        n: any_node.settle(json.dumps({"n": n, "userId": DRIVER}).encode(), CDR_DONE, kind=Kind.CDRS) for n in (1, 2)
    }
    with any_node.engine.begin() as ledger:
        before, back = (cdr_row(id_, None, DRIVER, "k") for id_ in ids.values())
        ledger.execute(cdrs.insert().values(**before | {"received_at": _now() - hour}))
        ledger.execute(cdrs.insert().values(**back | {"received_at": _now() + hour}))

    LateErasureTask(any_node.engine, valkey).run()

    with read_only(any_node.engine) as ledger:
        assert list(ledger.scalars(select(cdrs.c.user_id).where(cdrs.c.delivery_id == ids[2]))) == [DRIVER]
        assert DRIVER not in ledger.scalars(select(cdrs.c.user_id).where(cdrs.c.delivery_id == ids[1])).all()
        assert deliveries.get(ledger, ids[1]).body == b""
        assert deliveries.get(ledger, ids[2]).body
