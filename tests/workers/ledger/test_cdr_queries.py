"""CDRs found and summed up for a person, on both databases."""

from datetime import timedelta
from decimal import Decimal
from itertools import permutations

import pytest
from sqlalchemy import insert

from handlers.kit.cdr_table import UPSERT, cdrs
from workers.ledger import cdr_queries as ledger_cdrs
from workers.ledger import cdr_stats, sessions
from workers.ledger.cdr_queries import CdrFilters
from workers.ledger.states import DeliveryState
from workers.ledger.tables.core_tables import receipts
from workers.ledger.tables.core_tables import sessions as session_table

NAMES = [column.name for column in cdrs.c]
EVERYTHING = CdrFilters()


@pytest.fixture
def put(ledger, noon):
    """Write a record; what a test does not name is like that of any other."""

    def write(name, conn=None, **parts):
        if conn is not None:
            conn.execute(UPSERT, row_of(name, noon, **parts))
            return
        with ledger.begin() as own:
            own.execute(UPSERT, row_of(name, noon, **parts))

    return write


def row_of(name, at, **parts):
    """Return a row like that of any other CDR; it says what its amount is, unless it has other content."""
    row = dict.fromkeys(NAMES) | {
        "delivery_id": name,
        "position": 0,
        "request_id": f"r-{name}",
        "amount": Decimal("1.10"),
        "currency": "EUR",
        "notes": [],
        "document": "{}",
        "received_at": at,
        "recorded_at": at,
    }
    row |= parts
    return {**row, "identity": row["request_id"] or name, "content": row["content"] or str(row["amount"])}


def found(ledger, limit=None, **wanted):
    with ledger.begin() as conn:
        return list(ledger_cdrs.find(conn, CdrFilters(**wanted), limit))


def ids(ledger, **wanted):
    return [row.delivery_id for row in found(ledger, **wanted)]


def summed(ledger, **wanted):
    with ledger.begin() as conn:
        return cdr_stats.summarize(conn, CdrFilters(**wanted))


def test_a_session_is_known_before_its_cdr_or_after_it(ledger, put, says):
    with ledger.begin() as conn:
        sessions.merge(conn, {"first": says("COMPLETE")})
    put("a", session_id="first")
    put("b", session_id="second")
    put("c", session_id="never")
    assert {row.session_id: row.session_status for row in found(ledger)} == {
        "first": "COMPLETE",
        "second": None,
        "never": None,
    }
    with ledger.begin() as conn:
        sessions.merge(conn, {"second": says("STARTED")})
    assert [row.session_status for row in found(ledger, session_id="second")] == ["STARTED"]


def test_the_driver_is_that_of_the_cdr_or_else_of_its_session(ledger, put):
    with ledger.begin() as conn:
        row = {"session_id": "s", "user_id": "driver", "anomalies": [], "facts": {}}
        row |= {"updated_at": found_at(ledger)}
        conn.execute(insert(session_table).values(**row))
    put("a", session_id="s")
    put("b", session_id="s", user_id="another")
    assert {row.delivery_id: row.user_id for row in found(ledger)} == {"a": "driver", "b": "another"}
    assert (ids(ledger, user_id="driver"), ids(ledger, user_id="another")) == (["a"], ["b"])


def found_at(ledger):
    return ledger.delivery().received_at


def test_filters_combine_and_the_newest_comes_first(ledger, put, noon):
    for minutes, name in enumerate("abc"):
        put(name, received_at=noon + timedelta(minutes=minutes), session_id="s" if name == "a" else "t")
    assert ids(ledger) == ["c", "b", "a"]
    assert ids(ledger, session_id="t", until=noon + timedelta(minutes=2)) == ["b"]
    assert ids(ledger, since=noon + timedelta(minutes=1), request_id="r-c") == ["c"]
    assert [row.delivery_id for row in found(ledger, limit=1)] == ["c"]


@pytest.mark.parametrize("order", [*permutations("abc")])
def test_a_conflict_depends_on_no_order(sqlite_ledger, order, noon):
    for name in order:
        row = row_of(name, noon, request_id="other" if name == "c" else "same", content=name)
        with sqlite_ledger.begin() as conn:
            conn.execute(UPSERT, row)
    assert ids(sqlite_ledger, in_conflict=True) == ["a", "b"]
    assert {row.delivery_id: row.in_conflict for row in found(sqlite_ledger)} == {"a": True, "b": True, "c": False}
    assert {row.delivery_id: row.is_counted for row in found(sqlite_ledger)} == {"a": True, "b": False, "c": True}


@pytest.mark.parametrize("order", [*permutations(["first", "again", "other", "other again"])])
def test_what_says_the_same_is_a_repeat_in_any_order(sqlite_ledger, order, noon):
    amounts = {"first": "7.00", "again": "7.00", "other": "7.01", "other again": "7.01"}
    seconds = {"first": 0, "again": 1, "other": 2, "other again": 3}
    for name in order:
        at = noon + timedelta(seconds=seconds[name])
        with sqlite_ledger.begin() as conn:
            conn.execute(UPSERT, row_of(name, at, request_id="r", amount=Decimal(amounts[name])))
    listed = {row.delivery_id: row for row in found(sqlite_ledger)}
    assert {name: (row.is_counted, row.in_conflict, row.duplicates) for name, row in listed.items()} == {
        "first": (True, True, 1),
        "other": (False, True, 1),
    }
    assert ids(sqlite_ledger, in_conflict=True) == ["first", "other"]
    assert ids(sqlite_ledger, repeated=True, with_repeats=True) == ["first", "again", "other", "other again"]
    assert ids(sqlite_ledger, request_id="r", with_repeats=True) == ["other again", "other", "again", "first"]
    (total,) = summed(sqlite_ledger).totals
    assert (total.cdrs, str(total.amount), str(total.amount_in_conflict)) == (1, "7.00", "7.00")
    assert (total.not_counted, str(total.amount_not_counted)) == (1, "7.01")


@pytest.mark.parametrize("many", [0, 100], ids=["many repeats", "few repeats"])
def test_a_repeat_is_counted_by_the_first_on_either_database(ledger, put, noon, monkeypatch, many):
    monkeypatch.setattr(ledger_cdrs, "MANY", many)
    ledger.store(*(ledger.delivery(name, kind="cdrs") for name in "ab"))
    put("a", request_id="r")
    put("b", request_id="r", received_at=noon + timedelta(days=1))
    with ledger.begin() as conn:
        conn.execute(insert(receipts).values(delivery_id="b", inbox="there", receipts=2))
    (row,) = found(ledger)
    assert (row.delivery_id, row.duplicates, row.in_conflict) == ("a", 3, False)
    assert isinstance(row.duplicates, int)  # else it is a text in JSON
    assert [(row.delivery_id, row.is_repeat) for row in found(ledger, repeated=True, with_repeats=True)] == [
        ("a", False),
        ("b", True),
    ]
    counted = summed(ledger)
    assert (counted.cdrs, counted.repeated, counted.repeats, counted.in_conflict) == (1, 1, 3, 0)
    assert [total.amount for total in counted.totals] == [Decimal("1.10")]


def test_of_those_of_one_array_each_counts(ledger, put):
    for position in range(3):
        put("a", position=position, request_id=f"r-{position}")
    put("a", position=3, request_id="r-0")
    assert [(row.position, row.duplicates) for row in found(ledger)] == [(0, 1), (1, 0), (2, 0)]
    assert summed(ledger).cdrs == 3


def test_two_cdrs_of_one_session_are_both_counted_and_shown(ledger, put):
    put("a", session_id="s")
    put("b", session_id="s")
    put("c", session_id="s", request_id="r-b")
    put("d", session_id="t")
    put("e")
    put("f")
    assert {row.delivery_id for row in found(ledger) if row.shares_session} == {"a", "b"}
    counted = summed(ledger)
    assert (counted.cdrs, counted.sharing_session, counted.totals[0].cdrs) == (5, 2, 5)


def test_concurrent_workers_make_every_conflict_visible(ledger, put):
    def write(conn, worker):
        for number in range(20):
            put(f"{number}-{worker}", conn, request_id=f"r-{number}", amount=Decimal(worker))

    ledger.at_once(write)
    counted = summed(ledger)
    assert (counted.cdrs, counted.in_conflict, counted.request_ids_in_conflict) == (80, 80, 20)
    listed = [row.request_id for row in found(ledger, in_conflict=True)]
    assert listed == sorted(listed)


def test_without_request_ids_nothing_is_in_conflict(ledger, put):
    put("a", request_id=None)
    put("b", request_id=None)
    counted = summed(ledger)
    assert (counted.cdrs, counted.in_conflict, counted.without_request_id) == (2, 0, 2)
    assert ids(ledger, in_conflict=True) == []
    assert ids(ledger, request_id="a") == ["a"]


def test_repeats_of_a_cdr_are_counted_over_all_nodes(ledger, put):
    ledger.store(*(ledger.delivery(name, kind="cdrs") for name in "abc"))
    for name in "abc":
        put(name)
    with ledger.begin() as conn:
        conn.execute(insert(receipts).values(delivery_id="a", inbox="here", receipts=5))
        conn.execute(insert(receipts).values(delivery_id="a", inbox="there", receipts=2))
        conn.execute(insert(receipts).values(delivery_id="b", inbox="there", receipts=1))
    assert {row.delivery_id: row.duplicates for row in found(ledger)} == {"a": 6, "b": 1, "c": 0}
    assert sorted(ids(ledger, repeated=True)) == ["a", "b"]
    counted = summed(ledger)
    assert (counted.cdrs, counted.repeated, counted.repeats) == (3, 2, 7)


def test_totals_are_exact_in_each_currency_and_separate_conflicts(ledger, put):
    for number in range(30):
        put(f"tenth-{number}", amount=Decimal("0.1"))
    put("huge", amount=Decimal("12345678901234567890.12345678901234567890"))
    put("x", request_id="same", amount=Decimal("7.00"))
    put("y", request_id="same", amount=Decimal("7.01"))
    put("crown", currency="SEK", amount=Decimal("-3.5"))
    put("nothing", currency="SEK", amount=None)
    put("none", currency=None, amount=Decimal(2))
    totals = {total.currency: total for total in summed(ledger).totals}
    assert list(totals) == ["EUR", "SEK", None]
    assert str(totals["EUR"].amount) == "12345678901234567900.12345678901234567890"
    assert (totals["EUR"].cdrs, totals["EUR"].in_conflict) == (32, 1)
    assert totals["EUR"].amount_in_conflict == Decimal("7.00")
    assert (totals["EUR"].not_counted, totals["EUR"].amount_not_counted) == (1, Decimal("7.01"))
    assert (totals["SEK"].cdrs, totals["SEK"].amount, totals["SEK"].without_amount) == (2, Decimal("-3.5"), 1)
    assert totals[None].amount == 2


def test_the_summary_of_an_empty_ledger_is_zero(ledger):
    assert summed(ledger) == cdr_stats.CdrSummary(0, 0, 0, 0, 0, 0, 0, ())


def test_unreadable_cdrs_are_counted_separately(ledger, noon):
    ledger.store(ledger.delivery("a", kind="cdrs"), ledger.delivery("b"), state=DeliveryState.UNREADABLE)
    ledger.store(ledger.delivery("c", kind="cdrs"))
    with ledger.begin() as conn:
        assert ledger_cdrs.unreadable(conn) == ledger_cdrs.unreadable(conn, since=noon) == 1
        assert ledger_cdrs.unreadable(conn, until=noon) == 0
