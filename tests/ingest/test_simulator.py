import asyncio
import gzip
import json
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from random import Random

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse
from starlette.routing import Route

from ingest.errors import NotAuthentic, SettingsError
from ingest.events import WIRE_NAMES, ChargingRecord, SessionFeeIncurring, UnknownEvent, decode
from ingest.simulator import sender
from ingest.simulator.faults import Fault, PlannedRequest, inject_faults
from ingest.simulator.requests import RequestSigner, SigningKeyChoice, TransferMode, as_curl
from ingest.simulator.scenarios import (
    SCENARIOS,
    Participants,
    build_scenario,
    conflicting_cdr,
    format_timestamp,
    random_participants,
    telling,
)
from ingest.simulator.sender import Answer, send, tally
from ingest.wire.envelope import Envelope, Kind, verify_request
from ingest.wire.signature import SigningKeys

NOW = datetime(2025, 10, 15, 8, 52, 48, tzinfo=UTC)
CAST = Participants("L60XMxWy0oP", "user1")
KEYS = SigningKeys(b"the current key", b"the next key")
CURRENT = RequestSigner(KEYS, SigningKeyChoice.CURRENT, required=True)
STARTED = PlannedRequest(telling("SESSION_STARTED", CAST, NOW))


class Receiver:
    """A door that remembers what it let in."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.kept: list[Envelope] = []
        self.chunked: list[bool] = []
        self.spans: list[float] = []

    async def take(self, request: HttpRequest) -> JSONResponse:
        began = time.monotonic()
        body = await request.body()
        self.spans.append(time.monotonic() - began)
        self.chunked.append(request.headers.get("transfer-encoding") == "chunked")
        if "content-encoding" in request.headers:
            return JSONResponse({"error": "encoded"}, 415)
        kind = Kind(request.path_params["kind"])
        try:
            envelope = verify_request(
                kind, request.headers.raw, body, KEYS, signature_required=True, received_at=datetime.now(UTC)
            )
        except NotAuthentic:
            return JSONResponse({"error": "not authentic"}, 403)
        duplicate = envelope.id in {one.id for one in self.kept}
        self.kept.append(envelope)
        return JSONResponse({"id": envelope.id, "duplicate": duplicate})

    @property
    def names(self) -> list[str]:
        return [decode(envelope.kind, envelope.body).name for envelope in self.kept]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    config = uvicorn.Config("", port=0, log_config=None, lifespan="off")
    socket = config.bind_socket()
    here = Receiver(socket.getsockname()[1])
    config.app = Starlette(routes=[Route("/plugsurfing/{kind}", here.take, methods=["POST"])])
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [socket]})
    thread.start()
    while not server.started:
        time.sleep(0.005)
    yield here
    server.should_exit = True
    thread.join()
    socket.close()


def answers(
    receiver: Receiver, tracks: list[tuple[PlannedRequest, ...]], penmanship: RequestSigner = CURRENT
) -> list[Answer]:
    heard: list[Answer] = []
    asyncio.run(send(receiver.url, tracks, penmanship, on_response=heard.append))
    return heard


# What is said


@pytest.mark.parametrize("name", sorted(WIRE_NAMES))
def test_every_known_event_is_told_as_it_is_documented(name):
    event = decode(Kind.EVENTS, telling(name, CAST, NOW).body)
    assert type(event) is WIRE_NAMES[name]
    assert event.session_id == "L60XMxWy0oP"
    assert event.at == NOW


def test_the_documented_examples_come_out_to_the_letter():
    started = telling("SESSION_STARTED", CAST, datetime(2025, 6, 12, 10, 56, 51, tzinfo=UTC))
    assert started.body.decode() == (
        '{"event": "SESSION_STARTED", "payload": '
        '{"userId": "user1", "sessionId": "L60XMxWy0oP", "timestamp": "2025-06-12T10:56:51Z"}}'
    )
    assert telling("SESSION_FEE_INCURRING", CAST, NOW).body.decode() == (
        '{"event": "SESSION_FEE_INCURRING", "payload": {"sessionId": "L60XMxWy0oP", '
        '"timestamp": "2025-10-15T08:52:48Z", "feeWillApplyFrom": "2025-10-15T09:02:48Z", "feeType": "BLOCKING"}}'
    )


def test_a_fee_warning_names_no_user():
    event = decode(Kind.EVENTS, telling("SESSION_FEE_INCURRING", CAST, NOW).body)
    assert isinstance(event, SessionFeeIncurring)
    assert event.user_id is None


def test_a_name_that_nobody_knows_is_told_all_the_same():
    (only,) = build_scenario("SESSION_TELEPORTED", CAST, now=NOW)
    event = decode(only.kind, only.body)
    assert isinstance(event, UnknownEvent)
    assert event.name == "SESSION_TELEPORTED"


def test_a_charging_record_goes_to_its_own_url_and_tells_of_its_session():
    record = build_scenario("cdr", CAST, now=NOW)[-1]
    event = decode(record.kind, record.body)
    assert isinstance(event, ChargingRecord)
    assert event.session_id == "L60XMxWy0oP"
    assert CURRENT.request(PlannedRequest(record), at=NOW).path == "/plugsurfing/cdrs"


def test_a_charging_record_of_a_session_is_the_same_whenever_it_is_told_again():
    told = [telling("CDR", Participants(session_id, "driver"), NOW).body for session_id in ("one", "one", "two")]
    assert told[0] == told[1]
    one, two = (json.loads(body) for body in told[1:])
    assert one["requestId"] != two["requestId"]
    assert one["cost"] != two["cost"]


def test_a_contradiction_has_the_same_request_id_and_another_price():
    first = telling("CDR", CAST, NOW)
    other = conflicting_cdr(first)
    before, after = json.loads(first.body), json.loads(other.body)
    assert Decimal(after["cost"]["total"]) - Decimal(before["cost"]["total"]) == 1
    assert {**after, "cost": before["cost"]} == before


@pytest.mark.parametrize("about", ["cdr", "CDR"])
def test_the_fault_conflict_befalls_a_charging_record(about):
    (track,) = inject_faults([build_scenario(about, CAST, now=NOW)], [Fault.CONFLICT], Random(1))
    assert [step.telling.name for step in track][-2:] == ["CDR", "CDR"]
    assert track[-1].telling == conflicting_cdr(track[-2].telling)


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_story_ends_now_or_begins_when_it_is_told_to(name):
    beats = SCENARIOS[name].beats
    ends_now, begins_then = (
        build_scenario(name, CAST, now=NOW),
        build_scenario(name, CAST, begins_at=NOW, now=NOW + timedelta(days=1)),
    )
    assert format_timestamp(NOW) in ends_now[-1].body.decode()
    assert format_timestamp(NOW) in begins_then[0].body.decode()
    assert [told.name for told in ends_now] == [name for _, name in beats]


def test_the_same_seed_draws_the_same_people():
    assert random_participants(Random(3)) == random_participants(Random(3)) != random_participants(Random(4))


# What goes wrong


def stories(count: int, name: str = "session"):
    random = Random(1)
    return [build_scenario(name, random_participants(random), now=NOW) for _ in range(count)]


def test_without_faults_each_story_is_told_in_its_order():
    told = stories(3)
    assert inject_faults(told, (), Random(1)) == [tuple(map(PlannedRequest, each)) for each in told]


@pytest.mark.parametrize("fault", Fault)
@pytest.mark.parametrize("count", [1, 2, 100])
def test_a_fault_befalls_something_however_short_the_story(fault, count):
    told = stories(count)
    assert inject_faults(told, [fault], Random(1)) != inject_faults(told, (), Random(1))


@pytest.mark.parametrize("fault", Fault)
def test_the_same_seed_goes_wrong_in_the_same_way(fault):
    assert inject_faults(stories(50), [fault], Random(7)) == inject_faults(stories(50), [fault], Random(7))


def test_several_faults_each_befall_another_event_of_the_first_story():
    (track,) = inject_faults(stories(1), [Fault.GZIP, Fault.BAD_SIG, Fault.SLOW], Random(6))
    assert [fault in step.faults for step, fault in zip(track, [Fault.GZIP, Fault.BAD_SIG, Fault.SLOW], strict=True)]


def test_a_repeat_has_the_same_bytes_and_nothing_else_is_lost():
    told = stories(100)
    sent = [step.telling for track in inject_faults(told, [Fault.DUP], Random(1)) for step in track]
    assert set(sent) == {telling for each in told for telling in each}
    assert len(told) * 3 < len(sent) < len(told) * 4


def test_a_late_event_is_told_after_all_others_of_its_session():
    told = stories(20)
    for track, each in zip(inject_faults(told, [Fault.LATE], Random(1)), told, strict=True):
        assert {step.telling for step in track} == set(each)
        assert track[-1].telling is not each[-1]
    alone = inject_faults(stories(1, "unknown"), [Fault.LATE], Random(1))
    assert len(alone) == 1


def test_shuffled_requests_are_all_made_and_side_by_side():
    told = stories(50)
    tracks = inject_faults(told, [Fault.SHUFFLE], Random(1))
    assert {len(track) for track in tracks} == {1}
    assert {track[0].telling for track in tracks} == {telling for each in told for telling in each}


def test_what_is_dropped_is_not_sent():
    assert inject_faults(stories(1, "unknown"), [Fault.DROP], Random(1)) == []
    assert 200 < sum(map(len, inject_faults(stories(100), [Fault.DROP], Random(1)))) < 300


# What is sent


@pytest.mark.parametrize(("sign", "key"), [(SigningKeyChoice.CURRENT, "current"), (SigningKeyChoice.NEXT, "next")])
def test_a_request_is_signed_with_the_key_that_was_asked_for(sign, key):
    request = RequestSigner(KEYS, sign, required=True).request(STARTED, at=NOW)
    envelope = opened(request)
    assert envelope.signed_with == key
    assert envelope.signed_at == NOW
    assert request.expected == {200}


@pytest.mark.parametrize(
    ("sign", "required", "keys", "expected"),
    [
        (SigningKeyChoice.BAD, True, KEYS, {403}),
        (SigningKeyChoice.NONE, True, KEYS, {403}),
        (SigningKeyChoice.NONE, False, KEYS, {200}),
        (SigningKeyChoice.BAD, False, KEYS, {403}),
        (SigningKeyChoice.BAD, False, SigningKeys(authorizations=(b"secret",)), {200}),
    ],
)
def test_an_unsigned_or_badly_signed_request_should_be_refused_by_who_can_tell(sign, required, keys, expected):
    assert RequestSigner(keys, sign, required).request(STARTED, at=NOW).expected == expected


def test_nothing_is_signed_with_a_key_that_is_not_there():
    with pytest.raises(SettingsError, match="PLUGSURFING_HMAC_NEXT"):
        RequestSigner(SigningKeys(b"key"), SigningKeyChoice.NEXT, required=True)


def test_the_authorization_header_is_sent_where_one_is_set():
    keys = SigningKeys(b"key", authorizations=(b"first", b"second"))
    request = RequestSigner(keys, SigningKeyChoice.CURRENT, required=True).request(STARTED, at=NOW)
    assert request.headers["authorization"] == "first"


def test_faults_change_the_request_and_the_answer_it_deserves():
    def request(*faults: Fault):
        return CURRENT.request(PlannedRequest(STARTED.telling, frozenset(faults)), at=NOW)

    assert request(Fault.GZIP).expected == {415}
    assert gzip.decompress(request(Fault.GZIP).body) == STARTED.telling.body
    assert request(Fault.BAD_SIG).expected == {403}
    assert request(Fault.BAD_SIG, Fault.GZIP).expected == {403, 415}
    assert (request(Fault.CHUNKED).manner, request(Fault.CHUNKED).expected) == (TransferMode.CHUNKED, {200})
    assert (request(Fault.SLOW).manner, request(Fault.SLOW).expected) == (TransferMode.SLOW, {200})
    assert request(Fault.SLOW, Fault.GZIP).manner is TransferMode.WHOLE
    with pytest.raises(NotAuthentic):
        opened(request(Fault.BAD_SIG))


def opened(request) -> Envelope:
    headers = [(name.encode(), value.encode()) for name, value in request.headers.items()]
    return verify_request(Kind.EVENTS, headers, request.body, KEYS, signature_required=True, received_at=NOW)


@pytest.mark.skipif(not shutil.which("curl"), reason="there is no curl here")
@pytest.mark.parametrize("fault", [None, Fault.CHUNKED, Fault.SLOW, Fault.GZIP, Fault.BAD_SIG])
def test_the_printed_curl_command_does_what_sending_does(receiver, fault):
    cast = Participants('it\'s "quoted" $HOME \\ `id` é', "user1")
    step = PlannedRequest(telling("SESSION_STARTED", cast, NOW), frozenset({fault} if fault else ()))
    request = CURRENT.request(step, at=NOW)
    command = as_curl(request, receiver.url) + " --output /dev/null --write-out '%{http_code}'"
    status = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True).stdout
    assert {int(status)} == request.expected
    assert receiver.chunked == [fault is Fault.CHUNKED]
    if request.expected == {200}:
        (envelope,) = receiver.kept
        assert envelope.body == step.telling.body


def test_a_story_arrives_in_its_order_and_each_answer_is_heard(receiver):
    told = stories(1, "start-failed-then-started")
    heard = answers(receiver, inject_faults(told, (), Random(1)))
    assert receiver.names == ["SESSION_START_FAILED", "SESSION_STARTED", "SESSION_STOPPED", "SESSION_COMPLETE"]
    assert [answer.delivery_id for answer in heard] == [envelope.id for envelope in receiver.kept]
    assert all(answer.is_right and not answer.duplicate for answer in heard)


def test_everything_that_can_go_wrong_is_answered_rightly(receiver, monkeypatch):
    monkeypatch.setattr(sender, "SLOW_BODY", timedelta(milliseconds=100))
    tracks = inject_faults(stories(30), list(Fault), Random(5))
    heard = answers(receiver, tracks)
    assert len(heard) == sum(map(len, tracks))
    assert [answer for answer in heard if not answer.is_right] == []
    assert {answer.status for answer in heard} == {200, 403, 415}
    assert any(answer.duplicate for answer in heard)
    assert any(receiver.chunked)


def test_a_slow_body_takes_its_time_and_says_how_long_it_is(receiver, monkeypatch):
    monkeypatch.setattr(sender, "SLOW_BODY", timedelta(milliseconds=200))
    (answer,) = answers(receiver, [(PlannedRequest(STARTED.telling, frozenset({Fault.SLOW})),)])
    assert answer.is_right
    assert receiver.spans[0] >= 0.15
    assert receiver.chunked == [False]


def test_a_rate_is_kept(receiver):
    began = time.monotonic()
    asyncio.run(send(receiver.url, [(STARTED,)] * 11, CURRENT, on_response=lambda _: None, rate=50))
    assert time.monotonic() - began >= 0.2


def test_no_answer_is_an_answer_and_a_wrong_one():
    heard: list[Answer] = []
    asyncio.run(send("http://127.0.0.1:1", [(STARTED,)], CURRENT, on_response=heard.append))
    (answer,) = heard
    assert answer.status is None
    assert answer.problem
    assert not answer.is_right


def test_answers_are_counted():
    request = CURRENT.request(STARTED, at=NOW)
    heard = [Answer(request, timedelta(milliseconds=wait), status=200) for wait in range(1, 99)]
    heard += [Answer(request, timedelta(seconds=1), status=200, duplicate=True), Answer(request, timedelta(seconds=2))]
    counted = tally(heard)
    assert counted.statuses == (("200", 99), ("no answer", 1))
    assert (counted.duplicates, counted.wrong) == (1, 1)
    assert (counted.p50, counted.p99) == (timedelta(milliseconds=50), timedelta(seconds=1))


def test_a_body_is_json_even_with_odd_ids():
    cast = Participants('"\\\n\x00', "Ωμέγα")
    assert json.loads(telling("SESSION_STARTED", cast, NOW).body)["payload"]["sessionId"] == '"\\\n\x00'
