"""One row per CDR: what can be read of it, exactly, and the document as it came."""

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st
from sqlalchemy import Engine, create_engine, delete, insert, select
from structlog.testing import capture_logs

from handlers.cdr_records import FIELDS, cdr_record
from handlers.kit.cdr_table import CONTRADICTIONS, CdrNote, cdrs
from handlers.kit.field_extraction import MAX_DIGITS
from handlers.kit.testing import context_for
from ingest.errors import Unreadable
from ingest.events import decode
from ingest.wire.envelope import Kind
from ingest.wire.field_paths import HeaderPath, pointers

WHOLE = b"""{"requestId": "r-1", "userId": "driver", "chargingKeyId": "04A2", "session": {"id": "s-1",
 "startedAt": "2026-03-29T00:30:00Z", "stoppedAt": "2026-03-29T01:15:30.250Z", "energyKwh": 31.4150},
 "cost": {"total": 17.230, "currency": "eur"}, "location": {"id": "loc-7", "operator": "Example Charging"}}"""
NOW = datetime(2026, 3, 30, 2, 0, tzinfo=UTC)


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    engine = create_engine(database_url)
    cdrs.metadata.create_all(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def ledger(tmp_path) -> Iterator[Engine]:
    engine = create_engine(f"sqlite:///{tmp_path / 'plugin.db'}")
    cdrs.metadata.create_all(engine)
    yield engine
    engine.dispose()


def handle(  # noqa: PLR0913 - a delivery has many sides
    engine: Engine, body: bytes, *, headers=None, settings=None, delivery_id="d1", now=NOW
) -> list[dict]:
    """Run the handler on a body, and write what it wants written; returns what was logged."""
    event = decode(Kind.CDRS, body)
    ctx = context_for(event, now=now, settings=settings)
    ctx.delivery = replace(ctx.delivery, id=delivery_id, body=body, headers=headers or {})
    with capture_logs() as logs:
        cdr_record(event, ctx)
    with engine.begin() as conn:
        for write in ctx.writes.written:
            conn.execute(write.statement, write.values)
    return logs


def row_of(engine: Engine, delivery_id: str = "d1") -> Any:
    with engine.connect() as conn:
        return conn.execute(select(cdrs).where(cdrs.c.delivery_id == delivery_id)).one()


def recorded(engine: Engine, document: object, **options: Any) -> Any:
    handle(engine, json.dumps(document).encode(), **options)
    return row_of(engine)


def test_a_cdr_becomes_a_row_on_either_database(engine):
    assert handle(engine, WHOLE) == []
    row = row_of(engine)
    found = row._asdict()
    assert len(found.pop("content")) == 32
    assert found == {
        "delivery_id": "d1",
        "position": 0,
        "request_id": "r-1",
        "identity": "r-1",
        "session_id": "s-1",
        "user_id": "driver",
        "charging_key": "04a2",
        "amount": Decimal("17.230"),
        "currency": "EUR",
        "energy_kwh": Decimal("31.4150"),
        "started_at": datetime(2026, 3, 29, 0, 30, tzinfo=UTC),
        "ended_at": datetime(2026, 3, 29, 1, 15, 30, 250_000, tzinfo=UTC),
        "location": "loc-7",
        "operator": "Example Charging",
        "notes": [],
        "document": WHOLE.decode(),
        "received_at": NOW,
        "recorded_at": NOW,
    }
    assert (str(row.amount), str(row.energy_kwh)) == ("17.230", "31.4150")


AMOUNTS = {
    "0.1": "0.1",
    "0.30000000000000004": "0.30000000000000004",
    "12345678901234567890.12345678901234567890": "12345678901234567890.12345678901234567890",
    '"12.50"': "12.50",
    "1e3": "1000",
    "-4.20": "-4.20",
    "-0": "0",
    "-0.0": "0.0",
    "0": "0",
}
NO_AMOUNTS = {
    "1e400": "has too many digits",
    "1e999999999": "has too many digits",
    "1e9999999999999999999": "is not a number",
    "9" * 5000: "is not a number",
    "NaN": "is not a number",
    "-Infinity": "is not a number",
    "true": "is not a number",
    '"12,50"': "is not a number",
    "[12]": "is not a number",
    '{"value": 12}': "is not a number",
}


def test_an_amount_is_stored_as_it_was_written_on_either_database(engine):
    for written, amount in AMOUNTS.items():
        body = b'{"requestId": "r", "cost": {"total": %b, "currency": "EUR"}}' % written.encode()
        handle(engine, body, delivery_id=written)
        row = row_of(engine, written)
        assert (str(row.amount), row.notes) == (amount, [CdrNote.NEGATIVE_AMOUNT] if amount[0] == "-" else [])
        assert f'"total": {written}' in row.document


def test_an_invalid_amount_is_null_and_noted(engine):
    for written, problem in NO_AMOUNTS.items():
        body = b'{"requestId": "r", "cost": {"total": %b}}' % written.encode()
        logs = handle(engine, body, delivery_id=written[:20])
        row = row_of(engine, written[:20])
        assert (row.amount, row.notes) == (None, [f"amount {problem}"])
        assert written in row.document
        assert [(log["event"], log["notes"]) for log in logs] == [("cdr.partly_parsed", row.notes)]


def test_the_log_of_a_partly_parsed_cdr_has_no_values(ledger):
    logs = handle(ledger, b'{"requestId": "r", "amount": 1, "userId": ["secret"], "session": {"id": {"secret": 1}}}')
    assert row_of(ledger).notes == ["session_id is not text", "user_id is not text", CdrNote.NO_CURRENCY]
    assert "secret" not in str(logs)


def test_every_field_may_be_of_a_wrong_type(ledger):
    wrong: dict[str, Any] = {}
    for name in ("requestId", "userId", "sessionId", "chargingKeyId", "totalCost", "currency", "energy"):
        wrong[name] = {"of": "another kind"}
    row = recorded(ledger, {**wrong, "startTime": "yesterday", "endTime": [], "locationId": {}, "operator": 1.5})
    assert all(row._asdict()[name] is None for name in FIELDS)
    assert len(row.notes) == len(FIELDS) + 1


def test_a_cdr_without_known_fields_becomes_a_row_too(ledger):
    row = recorded(ledger, {"wholly": "different"})
    assert [row._asdict()[name] for name in FIELDS] == [None] * len(FIELDS)
    assert (row.document, row.notes) == (
        '{"wholly": "different"}',
        [CdrNote.NO_REQUEST_ID, CdrNote.NO_AMOUNT],
    )


def test_the_request_id_is_taken_from_the_body_then_from_the_header(ledger):
    header = {"x-request-id": "from the header"}
    assert recorded(ledger, {"requestId": "from the body"}, headers=header).request_id == "from the body"
    assert recorded(ledger, {"requestId": ""}, headers=header).request_id == "from the header"
    assert recorded(ledger, {"requestId": None, "id": "the CDR's"}, headers=header).request_id == "the CDR's"


def test_without_a_request_id_there_is_a_warning(ledger):
    (log,) = handle(ledger, b"{}", headers={"user-agent": "Plugsurfing"})
    assert (log["log_level"], log["event"], log["notes"][0]) == ("warning", "cdr.partly_parsed", CdrNote.NO_REQUEST_ID)
    assert row_of(ledger).request_id is None


def test_a_request_id_that_is_too_long_is_none(ledger):
    row = recorded(ledger, {"requestId": "x" * 201})
    assert (row.request_id, row.notes) == (
        None,
        [CdrNote.NO_REQUEST_ID, "request_id is too long", CdrNote.NO_AMOUNT],
    )


def test_the_settings_have_the_places_of_fields(ledger):
    settings = {
        "cdr_request_id": (HeaderPath("Delivery-Number"),),
        "cdr_amount": pointers("/price/gross", "/price"),
        "cdr_session": pointers("/charge/0/id"),
    }
    document = {"requestId": "no", "price": "3.10", "charge": [{"id": 17}], "sessionId": "no"}
    row = recorded(ledger, document, headers={"delivery-number": "n-1"}, settings=settings)
    assert (row.request_id, str(row.amount), row.session_id) == ("n-1", "3.10", "17")


DOCUMENTS = [
    ('{"a": "Zoë 🚗"}'.encode(), '{"a": "Zoë 🚗"}'),
    ('{"a": "Zoë"}'.encode("utf-16"), '{"a": "Zoë"}'),
    ('{"a": 1}'.encode("utf-8-sig"), '{"a": 1}'),
    (b'{"a":   0.10, "a": 1e1}', '{"a":   0.10, "a": 1e1}'),
    (b'{"a": "\0\xed\xa0\x80"}', '{"a": "\\u0000\\ud800"}'),
    (b'{"a": "\\u0000\\ud800"}', '{"a": "\\u0000\\ud800"}'),
]


def test_the_document_is_stored_as_received(engine):
    for number, (body, document) in enumerate(DOCUMENTS):
        handle(engine, body, delivery_id=str(number))
        assert row_of(engine, str(number)).document == document


def test_a_replay_parses_the_fields_again_and_leaves_the_rest(engine):
    handle(engine, WHOLE)
    later = NOW.replace(day=31)
    handle(engine, WHOLE, settings={"cdr_amount": pointers("/session/energyKwh")}, now=later)
    row = row_of(engine)
    assert (row.amount, row.received_at, row.document) == (Decimal("31.4150"), NOW, WHOLE.decode())
    assert row.recorded_at == later  # so that whoever looks for conflicts among new records sees it


def test_one_id_with_other_bytes_is_another_row(engine):
    handle(engine, WHOLE)
    handle(engine, WHOLE.replace(b"17.230", b"99"), delivery_id="d2")
    assert (row_of(engine).amount, row_of(engine, "d2").amount) == (Decimal("17.230"), Decimal(99))
    assert row_of(engine).request_id == row_of(engine, "d2").request_id


BASE: dict[str, Any] = {
    "requestId": "r",
    "sessionId": "s",
    "userId": "u",
    "cost": {"total": 12.5, "currency": "EUR"},
    "startTime": "2026-11-20T03:00:00Z",
    "sentAt": "2026-11-20T04:00:00Z",
}


@pytest.mark.parametrize(
    "again",
    [
        json.dumps(BASE | {"sentAt": "2026-11-21T03:00:00Z"}),
        json.dumps(dict(reversed(BASE.items()))),
        json.dumps(BASE | {"partner": "x", "location": {"name": ""}}),
        json.dumps(BASE).replace("12.5", "12.50"),
        json.dumps(BASE).replace("12.5", '"12.5000"'),
        json.dumps(BASE | {"startTime": "2026-11-20T04:00:00.000+01:00", "currency": "eur"}),
    ],
    ids=["another time of sending", "another order", "a new field", "12.50", "as text", "another time zone"],
)
def test_what_says_the_same_has_the_same_content(ledger, again):
    first = recorded(ledger, BASE)
    handle(ledger, again.encode(), delivery_id="d2")
    second = row_of(ledger, "d2")
    assert (second.identity, second.content) == (first.identity, first.content)


@pytest.mark.parametrize(
    "other",
    [
        BASE | {"cost": {"total": 12.51, "currency": "EUR"}},
        BASE | {"cost": {"total": 12.5, "currency": "SEK"}},
        BASE | {"userId": "U"},
        BASE | {"energy": 0},
        BASE | {"endTime": "2026-11-20T05:00:00Z"},
        {"requestId": "r", "sessionId": "s", "userId": "u", "cost": "12,50"},
    ],
)
def test_a_difference_in_what_is_read_is_a_difference_in_content(ledger, other):
    first = recorded(ledger, BASE)
    assert recorded(ledger, other, delivery_id="d1").content != first.content


def test_two_values_that_cannot_be_parsed_say_the_same_only_if_they_are_equal(ledger):
    written = [{"requestId": "r", "sessionId": "s", "amount": amount} for amount in ("12,50", "99,50", "12,50", [1.0])]
    contents = [recorded(ledger, each).content for each in written]
    assert len(set(contents)) == 3
    assert contents[0] == contents[2]


def test_where_nothing_is_read_the_whole_document_counts(ledger):
    contents = [recorded(ledger, {"requestId": "r", "price": {"gross": each}}).content for each in (1, 2, 1)]
    assert contents[0] == contents[2] != contents[1]


def test_without_a_request_id_equal_documents_are_one_cdr(ledger):
    def identity(body):
        handle(ledger, body)
        return row_of(ledger).identity

    one = identity(b'{"amount": 12.50, "x": [1, {"y": 0, "z": 1e2}]}')
    assert one == identity(b'{ "x":[1.0,{"z":100,"y":0.0}],"amount":12.5 }')
    assert one != identity(b'{"amount": 12.50, "x": [1, {"y": 0, "z": 101}]}')


OCPI = {
    "id": "CDR-7",
    "session_id": "S-7",
    "cdr_token": {"uid": "DEADbeef", "type": "RFID", "contract_id": "DE8PS1"},
    "cdr_location": {"id": "LOC1", "evse_uid": "1"},
    "currency": "EUR",
    "total_cost": {"excl_vat": 4.00, "incl_vat": 5.00},
    "total_energy": 15.342,
    "start_date_time": "2026-06-29T21:39:09Z",
    "end_date_time": "2026-06-29T23:37:32Z",
}


def test_the_cdr_of_ocpi_is_read_wholly_by_default(ledger):
    row = recorded(ledger, OCPI, headers={"x-request-id": "new with each attempt"})
    assert (row.request_id, row.session_id, row.charging_key, row.location) == ("CDR-7", "S-7", "deadbeef", "LOC1")
    assert (str(row.amount), row.currency, str(row.energy_kwh)) == ("5.0", "EUR", "15.342")
    assert (row.started_at, row.ended_at) == (
        datetime(2026, 6, 29, 21, 39, 9, tzinfo=UTC),
        datetime(2026, 6, 29, 23, 37, 32, tzinfo=UTC),
    )
    assert row.notes == []


def test_an_amount_that_is_null_or_has_no_currency_is_noted_and_never_guessed(ledger):
    row = recorded(ledger, OCPI | {"total_cost": {"excl_vat": 4.00, "incl_vat": None}})
    assert (row.amount, row.notes) == (None, [CdrNote.NO_AMOUNT])
    assert recorded(ledger, OCPI | {"currency": None}).notes == [CdrNote.NO_CURRENCY]


def test_what_cannot_be_true_is_noted_and_stored_as_it_came(ledger):
    ends_before = OCPI | {"end_date_time": "2026-06-29T21:39:08Z"}
    assert recorded(ledger, ends_before).notes == [CdrNote.ENDS_BEFORE_START]
    assert recorded(ledger, OCPI | {"end_date_time": OCPI["start_date_time"]}).notes == []
    negative = recorded(ledger, OCPI | {"total_energy": -0.001})
    assert (negative.notes, str(negative.energy_kwh)) == ([CdrNote.NEGATIVE_ENERGY], "-0.001")
    assert set(negative.notes) < CONTRADICTIONS


def elements(engine: Engine, body: bytes, **options: Any) -> list[Any]:
    handle(engine, body, **options)
    with engine.connect() as conn:
        return list(conn.execute(select(cdrs).where(cdrs.c.delivery_id == "d1").order_by(cdrs.c.position)))


def test_an_array_becomes_a_row_for_each_of_its_cdrs(engine):
    texts = '{"id": "a", "amount": 1.10, "currency": "EUR"}', '{"requestId":"b","totalCost":2,"currency":"EUR"}'
    body = " [ {} ,{}]\n".format(*texts).encode("utf-8-sig")
    rows = elements(engine, body)
    assert [(row.position, row.identity, str(row.amount), row.notes) for row in rows] == [
        (0, "a", "1.10", []),
        (1, "b", "2", []),
    ]
    assert tuple(row.document for row in rows) == texts
    assert elements(engine, body) == rows


def test_a_bad_element_of_an_array_does_not_lose_the_others(ledger):
    bad = [5, "x", None, [], {"event": "SESSION_STARTED", "payload": {}}, {"id": {}, "amount": "x"}]
    rows = elements(ledger, json.dumps([*bad, BASE]).encode())
    assert [row.notes for row in rows[:5]] == [[CdrNote.NOT_A_CDR]] * 5
    assert rows[5].notes == [CdrNote.NO_REQUEST_ID, "request_id is not text", "amount is not a number"]
    assert (rows[6].request_id, rows[6].amount) == ("r", Decimal("12.5"))


def test_a_header_names_each_cdr_of_an_array_by_its_position(ledger):
    rows = elements(ledger, b'[{"amount": 1}, {"amount": 2}]', headers={"x-request-id": "h"})
    assert [row.identity for row in rows] == ["h/0", "h/1"]


def test_a_cdr_without_an_id_is_the_same_in_any_array_and_alone(ledger):
    first, _ = elements(ledger, b'[{"amount": 1.0}, {"amount": 2}]')
    (_, again) = elements(ledger, b'[{"amount": 3}, {"amount": 1}]')
    handle(ledger, b'{"amount":1}', delivery_id="d2")
    assert first.identity == again.identity == row_of(ledger, "d2").identity


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["12.5", "1e999", "EUR"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["id", "total", "a"]), inner),
    max_leaves=5,
)
NAMES = ["requestId", "userId", "sessionId", "session", "cost", "location", "startTime", "currency", "energy", "other"]


@given(st.dictionaries(st.sampled_from(NAMES), VALUES) | st.dictionaries(st.text(), VALUES))
def test_no_document_raises(document):
    body = json.dumps(document).encode()
    try:
        event = decode(Kind.CDRS, body)
    except Unreadable:
        return
    ctx = context_for(event)
    ctx.delivery = replace(ctx.delivery, body=body)
    cdr_record(event, ctx)
    assert len(ctx.writes.written) == 1


NUMBERS = st.from_regex(r"-?(0|[1-9][0-9]{0,55})(\.[0-9]{1,55})?([eE][+-]?[0-9]{1,3})?", fullmatch=True)


@given(st.lists(st.tuples(NUMBERS, st.booleans()), min_size=1, max_size=20))
@examples(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=examples.default.max_examples // 4)
def test_an_amount_is_stored_to_its_last_digit_or_has_too_many(engine, written):
    with engine.begin() as conn:
        conn.execute(delete(cdrs))
        for place, (number, is_text) in enumerate(written):
            text = f'"{number}"' if is_text else number
            body = f'{{"requestId": "r", "cost": {{"total": {text}, "currency": "EUR"}}}}'.encode()
            event = decode(Kind.CDRS, body)
            ctx = context_for(event, now=NOW)
            ctx.delivery = replace(ctx.delivery, id=f"d{place}", body=body, headers={})
            cdr_record(event, ctx)
            for write in ctx.writes.written:
                conn.execute(write.statement, write.values)
        rows = {row.delivery_id: row for row in conn.execute(select(cdrs))}
    for place, (number, _) in enumerate(written):
        row, amount = rows[f"d{place}"], Decimal(number)
        fits = amount.adjusted() < MAX_DIGITS and -amount.as_tuple().exponent <= MAX_DIGITS
        assert row.amount == (amount if fits else None)
        if fits:
            assert row.notes == ([CdrNote.NEGATIVE_AMOUNT] if amount < 0 else [])
        else:
            assert row.notes == ["amount has too many digits"]
        assert number in row.document


def test_plugins_may_use_the_table_with_plain_rows(ledger):
    with ledger.begin() as conn:
        row = {column.name: None for column in cdrs.c} | {"delivery_id": "d", "notes": [], "document": "{}"}
        row |= {"position": 0, "identity": "i", "content": "c"}
        conn.execute(insert(cdrs).values(**row | {"received_at": NOW, "recorded_at": NOW}))
        assert conn.execute(select(cdrs.c.delivery_id)).scalars().all() == ["d"]
