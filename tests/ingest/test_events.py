import json
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from unittest import mock

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError

from ingest.errors import Unreadable
from ingest.events import (
    MOST_CDRS,
    WIRE_NAMES,
    ChargingRecord,
    Event,
    EventSummary,
    SessionComplete,
    SessionEvent,
    SessionFeeIncurring,
    SessionStarted,
    SessionStartFailed,
    SessionStopFailed,
    SessionStopped,
    UnknownEvent,
    decode,
    peek,
    queue_for,
    sanitize_text,
)
from ingest.wire.envelope import Kind

SAMPLES = Path(__file__).parent.parent / "events"
STARTED = {"userId": "user1", "sessionId": "L60XMxWy0oP", "timestamp": "2025-06-12T10:56:51Z"}


def sample(name):
    return (SAMPLES / f"{name}.json").read_bytes()


def body(name="SESSION_STARTED", /, **changes):
    return json.dumps({"event": name, "payload": STARTED | changes}).encode()


def unreadable(raw, kind=Kind.EVENTS):
    with pytest.raises(Unreadable) as caught:
        decode(kind, raw)
    assert caught.value.__cause__ is None
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "model", "at"),
    [
        ("SESSION_STARTED", SessionStarted, datetime(2025, 6, 12, 10, 56, 51, tzinfo=UTC)),
        ("SESSION_STOPPED", SessionStopped, datetime(2025, 6, 12, 11, 41, 7, 913499, tzinfo=UTC)),
        ("SESSION_COMPLETE", SessionComplete, datetime(2025, 6, 12, 11, 43, tzinfo=UTC)),
        ("SESSION_COMPLETED", SessionComplete, datetime(2025, 6, 12, 11, 43, tzinfo=UTC)),
        ("SESSION_START_FAILED", SessionStartFailed, datetime(2025, 6, 12, 10, 56, 40, tzinfo=UTC)),
        ("SESSION_FAILED", SessionStartFailed, datetime(2025, 6, 12, 10, 56, 40, tzinfo=UTC)),
        ("SESSION_STOP_FAILED", SessionStopFailed, datetime(2025, 6, 12, 9, 40, 12, 500000, tzinfo=UTC)),
        ("SESSION_FEE_INCURRING", SessionFeeIncurring, datetime(2025, 10, 15, 8, 52, 48, tzinfo=UTC)),
    ],
)
def test_every_wire_name_is_decoded(name, model, at):
    event = decode(Kind.EVENTS, sample(name))
    assert type(event) is model is WIRE_NAMES[name]
    assert (event.name, event.session_id, event.at) == (name, "L60XMxWy0oP", at)
    assert event.user_id == (None if model is SessionFeeIncurring else "user1")
    assert peek(Kind.EVENTS, sample(name)) == EventSummary(name, "L60XMxWy0oP")


def test_there_is_one_sample_for_every_wire_name():
    assert {path.stem for path in SAMPLES.glob("*.json")} == {*WIRE_NAMES, "unknown", "cdr"}


def test_a_fee_warning_has_its_start_and_type():
    event = decode(Kind.EVENTS, sample("SESSION_FEE_INCURRING"))
    assert isinstance(event, SessionFeeIncurring)
    assert (event.fee_type, event.fee_will_apply_from) == ("BLOCKING", datetime(2025, 10, 15, 9, 2, 48, tzinfo=UTC))


@pytest.mark.parametrize(
    ("given", "fee_type"),
    [
        *((odd, "UNKNOWN") for odd in (None, "", " \n", {}, {"name": "BLOCKING"}, [], ["BLOCKING"], True, False)),
        (5, "5"),
        (0, "0"),
        ("CONGESTION", "CONGESTION"),
        ("x" * 300, "x" * 200),
        ("\0" * 300, ("\\u0000" * 34)[:200]),
    ],
)
def test_a_fee_of_any_type_with_a_known_start_is_readable(given, fee_type):
    document = json.loads(sample("SESSION_FEE_INCURRING"))
    document["payload"]["feeType"] = given
    assert decode(Kind.EVENTS, json.dumps(document).encode()).fee_type == fee_type


def test_a_fee_may_have_no_type():
    document = json.loads(sample("SESSION_FEE_INCURRING"))
    del document["payload"]["feeType"]
    assert decode(Kind.EVENTS, json.dumps(document).encode()).fee_type == "UNKNOWN"


def test_an_unknown_event_has_its_own_type_and_keeps_its_payload():
    event = decode(Kind.EVENTS, sample("unknown"))
    assert isinstance(event, UnknownEvent)
    assert (event.name, event.session_id, event.payload["reason"]) == ("SESSION_PAUSED", "L60XMxWy0oP", {"code": 7})


@pytest.mark.parametrize("payload", [None, [], "text", 5, {"sessionId": None}, {"sessionId": ""}, {"sessionId": [1]}])
def test_an_unknown_event_may_have_any_payload(payload):
    event = decode(Kind.EVENTS, json.dumps({"event": "NEW", "payload": payload}).encode())
    assert isinstance(event, UnknownEvent)
    assert (event.session_id, event.payload) == (None, payload)


def test_a_charging_record_is_kept_whole():
    record = decode(Kind.CDRS, sample("cdr"))
    assert isinstance(record, ChargingRecord)
    exactly = json.loads(sample("cdr"), parse_float=Decimal)
    assert (record.name, record.session_id, record.document) == ("CDR", "L60XMxWy0oP", exactly)
    assert peek(Kind.CDRS, sample("cdr")) == EventSummary(None, "L60XMxWy0oP")


def test_an_array_of_charging_records_is_one_event_with_each_of_them():
    body = b'[5, {"event": "SESSION_STARTED"}, {"sessionId": "a", "b": "\\ud800"}]'
    record = decode(Kind.CDRS, body)
    assert isinstance(record, ChargingRecord)
    assert (len(record.documents), record.session_id) == (3, None)
    assert record.document == {"sessionId": "a", "b": "\\ud800"}
    assert peek(Kind.CDRS, body) == EventSummary(None, None)


@pytest.mark.parametrize(
    ("document", "session_id"),
    [
        ({"sessionId": "a", "session": {"id": "b"}}, "a"),
        ({"payload": {"sessionId": "a"}}, "a"),
        ({"session": {"sessionId": "a"}}, "a"),
        ({"session": {"id": 7}}, "7"),
        ({"id": "c", "session_id": "a"}, "a"),
        ({"session": "a"}, None),
        ({}, None),
    ],
)
def test_the_session_of_a_charging_record_is_found_in_every_usual_field(document, session_id):
    assert decode(Kind.CDRS, json.dumps(document).encode()).session_id == session_id


def test_unknown_fields_are_kept_and_change_nothing():
    extra = {
        "at": 1,
        "name": "x",
        "event": "y",
        "session_id": "z",
        "wire_name": "w",
        "model_config": {},
        "__class__": 0,
    }
    event = decode(Kind.EVENTS, body(evseId="DE*1", tariff={"a": [1]}, **extra))
    assert isinstance(event, SessionStarted)
    assert (event.name, event.session_id, event.at.year) == ("SESSION_STARTED", "L60XMxWy0oP", 2025)
    assert event.model_extra is not None
    assert (event.model_extra["evseId"], event.model_extra["tariff"]) == ("DE*1", {"a": [1]})


def test_events_are_made_in_code_by_their_python_names_and_are_frozen():
    now = datetime(2025, 6, 12, tzinfo=UTC)
    event = SessionFeeIncurring(session_id="a", at=now, fee_will_apply_from=now, fee_type="BLOCKING")
    assert (event.name, event.wire_name, event.user_id) == ("SESSION_FEE_INCURRING",) * 2 + (None,)
    with pytest.raises(ValidationError):
        event.session_id = "b"


def test_the_repr_of_an_event_has_no_personal_data():
    for event in (decode(Kind.EVENTS, body(driver="user1")), decode(Kind.EVENTS, body("NEW", driver="user1"))):
        assert "user1" not in f"{event} {event!r}"
        assert "L60XMxWy0oP" in repr(event)


@pytest.mark.parametrize("user_id", [None, ""])
def test_a_driver_may_be_absent(user_id):
    assert decode(Kind.EVENTS, body(userId=user_id)).user_id is None
    assert decode(Kind.EVENTS, body("SESSION_STOPPED", userId=user_id)).user_id is None


@pytest.mark.parametrize(("number", "text"), [(12, "12"), (-1, "-1"), (2**80, str(2**80)), (1.5, "1.5")])
def test_ids_that_are_numbers_become_text(number, text):
    event = decode(Kind.EVENTS, body(sessionId=number, userId=number))
    assert (event.session_id, event.user_id) == (text, text)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"sessionId": None}, "sessionId is not text"),
        ({"sessionId": ""}, "sessionId is empty"),
        ({"sessionId": True}, "sessionId is not text"),
        ({"sessionId": {}}, "sessionId is not text"),
        ({"sessionId": "x" * 201}, "sessionId is too long"),
        ({"userId": ["user1"]}, "userId is not text"),
        ({"userId": "user1" * 101}, "userId is too long"),
        ({"timestamp": None}, "timestamp is not a timestamp"),
        ({"timestamp": "yesterday"}, "timestamp is not a timestamp"),
        ({"timestamp": "2025-13-12T10:56:51Z"}, "timestamp month must be in 1..12"),
        ({"timestamp": True}, "timestamp is not a timestamp"),
        ({"timestamp": 10**40}, "timestamp is out of range"),
    ],
)
def test_an_unusable_payload_is_described_without_personal_data(changes, problem):
    sentence = unreadable(body(**changes))
    assert sentence.startswith(f"SESSION_STARTED: {problem}")
    assert "user1" not in sentence


def test_all_problems_of_a_payload_are_reported_at_once():
    sentence = unreadable(b'{"event": "SESSION_FEE_INCURRING", "payload": {"feeType": 5}}')
    missing = ("sessionId", "timestamp", "feeWillApplyFrom")
    assert sentence == f"SESSION_FEE_INCURRING: {', '.join(f'{field} is missing' for field in missing)}."


@pytest.mark.parametrize(
    ("raw", "problem"),
    [
        (b"", "The body is not JSON."),
        (b" ", "The body is not JSON."),
        (b"\xff", "The body is not JSON."),
        (b"event=SESSION_STARTED", "The body is not JSON."),
        (body()[:-1], "The body is not JSON."),
        (body() * 2, "The body is not JSON."),
        (b'{"event": "SESSION_STARTED\xff"}', "The body is not JSON."),
        (b"[" * 100_000, "The body is nested too deeply."),
        (b'{"a":' * 100_000, "The body is nested too deeply."),
        (b"[]", "The body is JSON, but not an object."),
        (b"null", "The body is JSON, but not an object."),
        (b'"SESSION_STARTED"', "The body is JSON, but not an object."),
        (b"1e999", "The body is JSON, but not an object."),
        (b"{}", "The body has no event name."),
        (b'{"event": ""}', "The body has no event name."),
        (b'{"event": 5}', "The body has no event name."),
        (b'{"event": ["SESSION_STARTED"]}', "The body has no event name."),
        (b'{"event": "SESSION_STARTED"}', "SESSION_STARTED: payload is missing."),
        (b'{"event": "SESSION_STARTED", "payload": []}', "SESSION_STARTED: payload is not an object."),
    ],
)
def test_an_unreadable_body_is_reported_with_its_reason(raw, problem):
    assert unreadable(raw) == problem
    assert peek(Kind.EVENTS, raw).session_id is None


def test_a_charging_record_that_is_not_an_object_is_unreadable():
    for body in (b"[]", b"7", b"[7, [{}]]"):
        assert unreadable(body, Kind.CDRS) == "The body is JSON, but neither an object nor an array of objects."
    assert unreadable(b"[" + b"{}," * MOST_CDRS + b"{}]", Kind.CDRS) == "The body has more than 10,000 CDRs."
    assert peek(Kind.CDRS, b"[]") == peek(Kind.CDRS, b"\xff") == EventSummary(None, None)


@pytest.mark.parametrize("name", WIRE_NAMES)
def test_an_event_that_is_sent_to_the_path_of_cdrs_is_unreadable(name):
    assert unreadable(sample(name), Kind.CDRS) == "The body is a session event, not a CDR."


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_json_is_parsed_in_every_unicode_encoding(encoding):
    raw = json.dumps({"event": "SESSION_STARTED", "payload": STARTED | {"sessionId": "Ü😀"}}, ensure_ascii=False)
    assert decode(Kind.EVENTS, raw.encode(encoding)).session_id == "Ü😀"


ODD_VALUES = {
    "a huge integer": b"9" * 5000,
    "a negative huge integer": b"-" + b"9" * 5000,
    "NaN": b"NaN",
    "Infinity": b"-Infinity",
    "a number out of range": b"1e999",
    "a lone surrogate": b'"\\ud800"',
    "a raw lone surrogate": b'"\xed\xa0\x80"',
    "NUL": b'"\\u0000"',
    "a raw control character": b'"\x00\t\n"',
    "a deep value": b"[" * 300 + b"]" * 300,
}


@pytest.mark.parametrize("odd", ODD_VALUES)
def test_an_odd_value_in_an_unknown_field_is_harmless(odd):
    raw = body()[:-2] + b', "odd": ' + ODD_VALUES[odd] + b"}}"
    event = decode(Kind.EVENTS, raw)
    assert isinstance(event, SessionStarted)
    assert event.user_id == "user1"
    assert peek(Kind.EVENTS, raw) == EventSummary("SESSION_STARTED", "L60XMxWy0oP")
    unknown = decode(Kind.EVENTS, raw.replace(b"SESSION_STARTED", b"NEW"))
    assert isinstance(unknown, UnknownEvent)
    written = json.dumps(unknown.payload, allow_nan=False, ensure_ascii=False)
    assert written.encode()
    assert "\\u0000" not in json.dumps(unknown.payload).replace("\\\\u0000", "")


def test_numbers_that_no_database_stores_stay_text():
    raw = b'{"event": "NEW", "payload": {"a": NaN, "b": -1e999, "c": %s, "d": 1.5, "e": 12}}' % (b"9" * 5000)
    payload = decode(Kind.EVENTS, raw).payload
    assert payload == {"a": "NaN", "b": "-1e999", "c": "9" * 5000, "d": 1.5, "e": 12}


def test_texts_for_a_database_are_sanitized():
    raw = b'{"event": "NEW\\u0000", "payload": {"sessionId": "a\\u0000\\udcff", "\\ud800": ["\\u0000"]}}'
    event = decode(Kind.EVENTS, raw)
    assert (event.name, event.session_id) == ("NEW\\u0000", "a\\u0000\\udcff")
    assert event.payload == {"sessionId": "a\\u0000\\udcff", "\\ud800": ["\\u0000"]}
    assert peek(Kind.EVENTS, raw) == EventSummary("NEW\\u0000", "a\\u0000\\udcff")


def test_of_two_equal_keys_the_last_one_counts():
    raw = body()[:-2] + b', "sessionId": "last"}}'
    assert decode(Kind.EVENTS, raw).session_id == peek(Kind.EVENTS, raw).session_id == "last"


def test_a_body_that_is_too_deep_to_sanitize_is_unreadable():
    depth = 950
    assert unreadable(b'{"event": "\\u0041", "payload": ' + b"[" * depth + b"]" * depth + b"}").endswith("too deeply.")


def test_peek_truncates_names_and_session_ids():
    raw = json.dumps({"event": "N" * 1000, "payload": {"sessionId": "s" * 1000}}).encode()
    assert peek(Kind.EVENTS, raw) == EventSummary("N" * 200, "s" * 200)
    assert decode(Kind.EVENTS, raw).name == "N" * 200


@pytest.mark.parametrize(
    ("text", "stored"),
    [
        ("", ""),
        ("plain", "plain"),
        ("Ü😀", "Ü😀"),
        ("\0", "\\u0000"),
        ("\ud800x", "\\ud800x"),
        ("Ü\0\udfff", "Ü\\u0000\\udfff"),
    ],
)
def test_a_text_is_sanitized(text, stored):
    assert sanitize_text(text) == stored


@given(st.text(alphabet=st.characters(exclude_categories=())))
def test_sanitizing_any_text_is_idempotent(text):
    stored = sanitize_text(text)
    assert "\0" not in stored
    assert stored.encode().decode() == stored == sanitize_text(stored)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(alphabet=st.characters(exclude_categories=())),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
FIELDS = st.sampled_from(["sessionId", "userId", "timestamp", "feeWillApplyFrom", "feeType", "name", "at", "event"])
BODIES = st.fixed_dictionaries(
    {},
    optional={
        "event": st.sampled_from(sorted(WIRE_NAMES)) | JSON,
        "payload": st.dictionaries(FIELDS, JSON) | JSON,
        "session": st.dictionaries(st.sampled_from(["id", "sessionId"]), JSON) | JSON,
    },
)


@given(st.sampled_from(Kind), st.binary() | BODIES.map(lambda value: json.dumps(value).encode()))
@example(Kind.EVENTS, b"\x00\x00\x00\x00")
@example(Kind.CDRS, b'{"session": {"id": true}}')
def test_no_bytes_ever_raise_anything_but_unreadable(kind, raw):
    seen = peek(kind, raw)
    assert queue_for(kind, seen) in {"urgent", "sessions", "cdrs", "other"}
    for text in seen:
        assert text is None or (text == sanitize_text(text) and 0 < len(text) <= 200)
    try:
        event = decode(kind, raw)
    except Unreadable:
        return
    assert isinstance(event, Event)
    assert event.session_id is None or event.session_id == sanitize_text(event.session_id)
    if isinstance(event, SessionEvent):
        assert event.at.tzinfo is UTC
        assert event.name == seen.name


def test_each_body_has_its_queue():
    queues = {name: queue_for(Kind.EVENTS, EventSummary(name, None)) for name in [*WIRE_NAMES, "NEW", None]}
    assert queues.pop("SESSION_FEE_INCURRING") == "urgent"
    assert queues.pop("NEW") == queues.pop(None) == "other"
    assert set(queues.values()) == {"sessions"}
    assert queue_for(Kind.CDRS, EventSummary("SESSION_FEE_INCURRING", None)) == "cdrs"


TEXTS = st.text(alphabet=st.characters(exclude_categories=()), max_size=8)
MOMENTS = st.datetimes().map(lambda at: f"{at.isoformat()}Z") | st.integers(-(10**13), 10**13) | st.floats()
IDS = TEXTS | st.text(min_size=195, max_size=205) | st.integers() | st.floats()
FIELDS_AS_THEY_SHOULD_BE = {
    "sessionId": IDS,
    "userId": IDS,
    "timestamp": MOMENTS,
    "feeWillApplyFrom": MOMENTS,
    "feeType": st.sampled_from(["BLOCKING", "CONGESTION"]) | TEXTS,
}


@st.composite
def nearly_events(draw):
    """An event as it ought to be, some of whose fields are something else, are missing, or are too many."""
    payload = draw(st.fixed_dictionaries(FIELDS_AS_THEY_SHOULD_BE))
    for name in draw(st.lists(st.sampled_from(sorted(payload)), max_size=1)):
        payload[name] = draw(JSON)
    for name in draw(st.lists(st.sampled_from(sorted(payload)), max_size=1)):
        payload.pop(name, None)
    payload |= draw(st.dictionaries(st.sampled_from(["session_id", "name", "at", "event", "self", ""]) | TEXTS, JSON))
    name = draw(
        st.sampled_from(sorted(WIRE_NAMES)) | st.sampled_from(["SOMETHING_NEW", "CDR", "session_started"]) | TEXTS
    )
    return {"event": name, "payload": payload, **draw(st.dictionaries(TEXTS, JSON, max_size=2))}


@st.composite
def nearly_records(draw):
    """A CDR that names its session in one of the places where it may be, or in none."""
    session = draw(IDS | JSON)
    places = [{"sessionId": session}, {"session": {"id": session}}, {"session": {"sessionId": session}}]
    document = draw(st.sampled_from([*places, {"payload": {"sessionId": session}}, {"session": session}, {}]))
    return draw(st.dictionaries(TEXTS, JSON, max_size=3)) | document


@given(nearly_events().map(lambda event: (Kind.EVENTS, event)) | nearly_records().map(lambda cdr: (Kind.CDRS, cdr)))
@example((Kind.EVENTS, {"event": "SESSION_STARTED", "payload": {"sessionId": 1.5, "timestamp": 0}}))
@example((Kind.CDRS, {"sessionId": 1.5, "session": {"id": "s"}}))
def test_peek_and_decode_find_the_same_name_and_session(request):
    kind, document = request
    raw = json.dumps(document).encode()
    seen = peek(kind, raw)
    try:
        event = decode(kind, raw)
    except Unreadable:
        return
    assert seen.session_id == event.session_id
    assert seen.name == (None if kind is Kind.CDRS else event.name)
    queue = {ChargingRecord: "cdrs", SessionFeeIncurring: "urgent", UnknownEvent: "other"}.get(type(event), "sessions")
    assert queue_for(kind, seen) == queue


PLAIN = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=8)
SPELLINGS = (
    lambda document: json.dumps(document, indent=1).encode(),
    lambda document: json.dumps(document, ensure_ascii=False).encode(),
    lambda document: json.dumps(document, ensure_ascii=False).encode("utf-8-sig"),
    lambda document: json.dumps(document, separators=(",", ":")).encode("utf-16"),
    lambda document: json.dumps(document, ensure_ascii=False).encode("utf-32-be"),
    lambda document: json.dumps(dict(reversed(document.items()))).encode(),
)


@given(
    st.sampled_from(sorted(WIRE_NAMES)) | PLAIN,
    st.fixed_dictionaries(
        {"sessionId": PLAIN | st.integers(), "timestamp": MOMENTS, "feeWillApplyFrom": MOMENTS, "feeType": PLAIN},
        optional={"userId": PLAIN | st.none(), "more": st.lists(PLAIN | st.integers() | st.booleans(), max_size=3)},
    ),
)
def test_every_spelling_of_a_document_decodes_to_the_same_event(name, payload):
    def read(raw):
        try:
            return decode(Kind.EVENTS, raw)
        except Unreadable as problem:
            return str(problem)

    document = {"event": name, "payload": payload}
    first = read(json.dumps(document).encode())
    for spell in SPELLINGS:
        raw = spell(document)
        assert read(raw) == first
        assert peek(Kind.EVENTS, raw) == peek(Kind.EVENTS, json.dumps(document).encode())


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
SUMMARIZED = st.fixed_dictionaries(
    {},
    optional={
        "event": ANYTHING | st.sampled_from(sorted(WIRE_NAMES)) | PLAIN,
        "payload": ANYTHING | st.fixed_dictionaries({}, optional={"sessionId": ANYTHING | PLAIN, "more": ANYTHING}),
    },
)


def look(body):
    """What is found in a body at first sight, and what it is decoded to."""
    try:
        event = decode(Kind.EVENTS, body).model_dump()
    except Unreadable as unreadable:
        event = str(unreadable)
    return peek(Kind.EVENTS, body), repr(event)


def thorough_look(body):
    with mock.patch.object(orjson, "loads", side_effect=orjson.JSONDecodeError("", "", 0)):
        return look(body)


@given(
    SUMMARIZED | ANYTHING,
    st.sampled_from(["ascii", "text"]),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-be", "utf-32-le"]),
    st.none() | st.tuples(st.integers(0, 200), st.binary(max_size=3)),
)
@example({"event": "SESSION_STOPPED", "payload": {"sessionId": "\ud800"}}, "ascii", "utf-8", None)
@example({"event": "SESSION_STOPPED", "payload": {"sessionId": 2**64}}, "ascii", "utf-8", None)
@example({"event": "SESSION_STOPPED", "payload": {"sessionId": "a\0b"}}, "ascii", "utf-8", None)
def test_a_quick_look_at_a_body_finds_what_a_thorough_one_does(document, escaping, encoding, damage):
    body = json.dumps(document, ensure_ascii=escaping == "ascii").encode(encoding, "surrogatepass")
    if damage is not None:
        at, inserted = damage
        body = body[:at] + inserted + body[at:]
    assert look(body) == thorough_look(body)


@pytest.mark.parametrize(
    "body",
    [
        b'{"event": "A", "event": "B", "payload": {"sessionId": "1", "sessionId": "2"}}',
        b'{"event": "A", "payload": {"sessionId": "1"}, "payload": {"sessionId": "2"}}',
        b'{"\\u0065vent": "A", "payload": {"sessionId": "\\u0041\\uD83D\\uDE00"}}',
        b'{"event": "A", "payload": {"sessionId": "tab\there"}}',
        b'{"event": "A", "payload": {"sessionId": "1", "n": NaN}}',
        b'{"event": "A", "payload": {"sessionId": "1", "n": 1e999}}',
        b'{"event": "A", "payload": {"sessionId": "1"}} trailing',
        b'{"event": "A", "payload": {"sessionId": "\xed\xa0\x80"}}',
        b'{"event": "A", "payload": {"sessionId": ""}}',
        b'{"event": "", "payload": {"sessionId": "1"}}',
        b'{"event": 1, "payload": {"sessionId": "1"}}',
        b'{"event": "SESSION_STARTED", "payload": {"sessionId": "1", "timestamp": 1770000000}}',
        b'{"event": "SESSION_STARTED", "payload": {"sessionId": "1", "timestamp": "1", "n": 36893488147419103232}}',
        b'{"event": "SESSION_STARTED", "payload": {"sessionId": "1", "timestamp": "1", "x": "\\ud800"}}',
        b'{"event": "SESSION_STARTED", "payload": {"sessionId": "1", "timestamp": "1", "x": "\\u0000"}}',
        b'{"event": "SESSION_STARTED", "payload": {"sessionId": "1", "timestamp": "1", "x": {"y": 0.1}}}',
    ],
)
def test_what_parsers_of_json_disagree_about_is_read_alike(body):
    assert look(body) == thorough_look(body)
