"""`webhooks cdrs` as a person and as a program read it."""

import csv
import io
import json
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

import pytest

from handlers.cdr_records import cdr_record
from handlers.kit.testing import context_for
from ingest.events import decode
from ingest.wire.envelope import Kind
from workers.ledger.states import Outcome


@pytest.fixture
def record(node, noon):
    """Insert a CDR into the ledger, with the record that the plugin makes of it."""

    def insert(document, *, receipts=1, received_at=noon):
        body = document if isinstance(document, bytes) else json.dumps(document).encode()
        delivery_id = node.settle(
            body, ("cdr_record", Outcome.DONE), kind=Kind.CDRS, receipts=receipts, received_at=received_at
        )
        event = decode(Kind.CDRS, body)
        ctx = context_for(event, now=received_at)
        ctx.delivery = replace(ctx.delivery, id=delivery_id, body=body)
        cdr_record(event, ctx)
        with node.engine.begin() as conn:
            for write in ctx.writes.written:
                conn.execute(write.statement, write.values)
        return delivery_id

    return insert


def cdr(request_id="r-1", total="7.03", **more):
    return {"requestId": request_id, "cost": {"total": total, "currency": "EUR"}, "sessionId": "S", **more}


def test_a_cdr_is_listed_with_everything_known_of_it(node, record, event):
    delivery_id = record(cdr(userId="driver", energy=12.340, locationId="loc"), receipts=4)
    node.settle(event("SESSION_STARTED", "S", userId="driver"))
    (row,) = node.rows("cdrs")
    assert row == {
        "id": delivery_id,
        "request_id": "r-1",
        "session_id": "S",
        "session_status": "STARTED",
        "user_id": "driver",
        "charging_key": None,
        "amount": "7.03",
        "currency": "EUR",
        "energy_kwh": "12.34",
        "started_at": None,
        "ended_at": None,
        "location": "loc",
        "operator": None,
        "received_at": "2026-05-04T12:00:00Z",
        "duplicates": 3,
        "conflict": False,
        "repeat": False,
        "counted": True,
        "notes": [],
    }
    for_people = node.run("cdrs").stdout
    assert "came 4 times" in for_people
    assert "7.03 EUR" in for_people
    assert "1 CDR; 1 came again, 3 times in all" in for_people


def test_conflicts_are_listed_side_by_side_and_counted(node, record):
    record(cdr("r-1"))
    record(cdr("r-2", "1.00", sessionId="T"))
    record(cdr("r-1", "9.99"))
    assert [(row["request_id"], row["conflict"]) for row in node.rows("cdrs", "--conflicts")] == [("r-1", True)] * 2
    for_people = node.run("cdrs").stdout
    assert for_people.count("in conflict, not counted") == 1
    assert "3 CDRs; 2 in conflict over 1 request id\n" in for_people
    assert "the one that was received first counts" in for_people
    assert [row["counted"] for row in node.rows("cdrs", "--conflicts")] in ([True, False], [False, True])


def test_a_cdr_that_says_the_same_is_one_with_the_first(node, record, noon):
    first = record(cdr(total=12.5))
    again = record(cdr(total="12.50", sentAt="later"), received_at=noon + timedelta(days=1))
    (row,) = node.rows("cdrs")
    assert (row["id"], row["duplicates"], row["conflict"]) == (first, 1, False)
    assert [total["amount"] for total in node.rows("cdrs", "--totals")] == ["12.5"]
    assert node.rows("cdrs", "--conflicts") == []
    assert [(row["id"], row["repeat"]) for row in node.rows("cdrs", "--repeated")] == [(first, False), (again, True)]
    assert "a repeat" in node.run("cdrs", "--repeated").stdout
    assert "1 CDR; 1 came again, 1 time in all" in node.run("cdrs").stdout


def test_two_cdrs_of_one_session_are_noted(node, record):
    record(cdr("r-1"))
    record(cdr("r-2"))
    for row in node.rows("cdrs"):
        assert row["notes"] == ["same session as another CDR"]
    for_people = node.run("cdrs").stdout
    assert for_people.count("same session as another CDR") == 2
    assert "2 CDRs; 2 with the session of another one\n" in for_people


def test_totals_are_exact_and_count_conflicts_apart(node, record, noon):
    for number in range(10):
        record(b'{"requestId": "t-%d", "cost": {"total": 0.1, "currency": "EUR"}}' % number)
    record(cdr("same", "10.000000000000000001"))
    record(cdr("same", "20"), received_at=noon + timedelta(days=1))
    record({"requestId": "free"})
    assert node.rows("cdrs", "--totals") == [
        {
            "currency": "EUR",
            "cdrs": 11,
            "amount": "11.000000000000000001",
            "in_conflict": 1,
            "amount_in_conflict": "10.000000000000000001",
            "without_amount": 0,
            "not_counted": 1,
            "amount_not_counted": "20",
        },
        {
            "currency": None,
            "cdrs": 1,
            "amount": "0",
            "in_conflict": 0,
            "amount_in_conflict": "0",
            "without_amount": 1,
            "not_counted": 0,
            "amount_not_counted": "0",
        },
    ]
    assert "11.000000000000000001" in node.run("cdrs", "--totals", "--until", "1s").stdout


def test_what_is_unusual_about_a_cdr_is_noted(node, record):
    record({"cost": {"total": "12,50"}})
    node.settle(b"not JSON", kind=Kind.CDRS)
    for_people = node.run("cdrs").stdout
    assert "has no request id" in for_people
    assert "amount is not a number" in for_people
    assert "1 without a request id (CDR_REQUEST_ID)" in for_people
    assert "1 more could not be read" in for_people
    assert "could not be read" not in node.run("cdrs", "--session", "another").stdout


@pytest.mark.parametrize(
    "options",
    [
        ("--session", "S"),
        ("--user", "driver"),
        ("--request-id", "r-1"),
        ("--key", "04:A1:B2"),
        ("--key", "b2a104"),
        ("--repeated",),
        ("--since", "2026-05-04T12:00:00Z", "--until", "2026-05-04T12:00:01Z", "--limit", "1"),
    ],
)
def test_filters_narrow_the_list_and_the_totals(node, record, noon, options):
    record(cdr("r-1", userId="driver", chargingKeyId="04-A1-B2"), receipts=2)
    record({"requestId": "r-2"}, received_at=noon.replace(hour=11))
    assert [row["request_id"] for row in node.rows("cdrs", *options)] == ["r-1"]
    if "--limit" not in options:
        assert [total["amount"] for total in node.rows("cdrs", "--totals", *options)] == ["7.03"]


def test_csv_holds_no_formula_and_every_digit(node, record):
    record(cdr("=1+1", "-0.10", userId="@SUM(A1)", operator="+cmd", locationId="-7"))
    node.run("cdrs", "--csv", "out.csv")
    (row,) = csv.DictReader((node.folder / "out.csv").open(newline=""))
    assert (row["request_id"], row["user_id"], row["operator"]) == ("'=1+1", "'@SUM(A1)", "'+cmd")
    assert (row["amount"], row["location"], row["conflict"]) == ("-0.10", "-7", "false")
    assert Decimal(row["amount"]) == Decimal("-0.1")
    assert list(csv.DictReader(io.StringIO(node.run("cdrs", "--csv", "-").stdout))) == [row]


def test_csv_is_whole_unless_a_limit_is_set(node, record):
    for number in range(60):
        record(cdr(f"r-{number}"))
    assert len(node.run("cdrs", "--csv", "-").stdout.splitlines()) == 61
    assert len(node.run("cdrs", "--csv", "-", "--limit", "2").stdout.splitlines()) == 3
    assert "The newest 50" in node.run("cdrs").stderr
    assert node.run("cdrs", "--csv", "-", "--json", code=2)


def test_nothing_from_the_wire_moves_the_cursor(node, record):
    record(cdr("r\x1b[2J", userId="\u202edriver"))
    for arguments in (("cdrs",), ("cdrs", "--json"), ("cdrs", "--csv", "-")):
        output = node.run(*arguments).stdout
        assert "\x1b[2J" not in output
        assert "\u202e" not in output


def test_a_session_shows_the_cdrs_that_name_it(node, record, event):
    node.settle(event("SESSION_STARTED", "S", userId="driver"), ("session_record", Outcome.DONE))
    first = record(cdr("r-1"))
    other = record(cdr("r-1", "9.99"))
    for_people = node.run("session", "S").stdout
    assert "7.03 EUR, r-1, in conflict" in for_people
    assert "a CDR of 9.99 EUR" in for_people
    (session,) = node.rows("session", "S")
    assert {charge["id"]: charge["amount"] for charge in session["cdrs"]} == {first: "7.03", other: "9.99"}


def test_a_session_shows_a_cdr_once_and_when_it_came_again(node, record, noon):
    first = record(cdr())
    record(cdr(sentAt="later"), received_at=noon + timedelta(days=1))
    for_people = node.run("session", "S").stdout
    assert "7.03 EUR, r-1, came 2 times" in for_people
    assert "a CDR of 7.03 EUR, a repeat" in for_people
    (session,) = node.rows("session", "S")
    assert [charge["id"] for charge in session["cdrs"]] == [first]


def test_a_session_may_be_known_by_its_cdr_alone(node, record):
    record(cdr("r-1"))
    assert "7.03 EUR, r-1" in node.run("session", "S").stdout
