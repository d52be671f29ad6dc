"""Requests arrive in order and at their rate, and each response is reported."""

import asyncio
import threading
import time
from datetime import timedelta
from random import Random

from ingest.simulator import connection
from ingest.simulator.faults import Fault, PlannedRequest, inject_faults
from ingest.simulator.requests import RequestSigner
from ingest.simulator.sender import ResponseStats, SimulatorResponse, send
from tests.ingest.simulator.receiver import Receiver
from tests.ingest.simulator.samples import CURRENT, NOW, STARTED, scenarios


def responses_to(
    receiver: Receiver, tracks: list[tuple[PlannedRequest, ...]], signer: RequestSigner = CURRENT
) -> list[SimulatorResponse]:
    responses: list[SimulatorResponse] = []
    asyncio.run(send(receiver.url, tracks, signer, on_response=responses.append))
    return responses


def test_a_scenario_arrives_in_order_and_each_response_is_reported(receiver):
    sent = scenarios(1, "start-failed-then-started")
    responses = responses_to(receiver, inject_faults(sent, (), Random(1)))
    assert receiver.names == ["SESSION_START_FAILED", "SESSION_STARTED", "SESSION_STOPPED", "SESSION_COMPLETE"]
    assert [response.delivery_id for response in responses] == [envelope.id for envelope in receiver.kept]
    assert all(response.is_expected and not response.duplicate for response in responses)


def test_every_fault_gets_the_expected_response(receiver, monkeypatch):
    monkeypatch.setattr(connection, "SLOW_BODY", timedelta(milliseconds=100))
    tracks = inject_faults(scenarios(30), list(Fault), Random(5))
    responses = responses_to(receiver, tracks)
    assert len(responses) == sum(map(len, tracks))
    assert [response for response in responses if not response.is_expected] == []
    assert {response.status for response in responses} == {200, 403, 415}
    assert any(response.duplicate for response in responses)
    assert any(receiver.chunked)


def test_a_slow_body_is_sent_slowly_and_with_its_length(receiver, monkeypatch):
    monkeypatch.setattr(connection, "SLOW_BODY", timedelta(milliseconds=200))
    (response,) = responses_to(receiver, [(PlannedRequest(STARTED.event, frozenset({Fault.SLOW})),)])
    assert response.is_expected
    assert receiver.spans[0] >= 0.15
    assert receiver.chunked == [False]


def test_a_rate_is_not_exceeded(receiver):
    began = time.monotonic()
    asyncio.run(send(receiver.url, [(STARTED,)] * 11, CURRENT, on_response=lambda _: None, rate=50))
    assert time.monotonic() - began >= 0.2


def test_a_missing_response_is_reported_and_wrong():
    responses: list[SimulatorResponse] = []
    asyncio.run(send("http://127.0.0.1:1", [(STARTED,)], CURRENT, on_response=responses.append))
    (response,) = responses
    assert response.status is None
    assert response.problem
    assert not response.is_expected


def test_responses_are_counted():
    request = CURRENT.request(STARTED, at=NOW)
    responses = [SimulatorResponse(request, timedelta(milliseconds=wait), status=200) for wait in range(1, 99)]
    responses += [
        SimulatorResponse(request, timedelta(seconds=1), status=200, duplicate=True),
        SimulatorResponse(request, timedelta(seconds=2)),
    ]
    counted = ResponseStats.of(responses)
    assert counted.statuses == (("200", 99), ("no answer", 1))
    assert (counted.duplicates, counted.wrong) == (1, 1)
    assert (counted.p50, counted.p99) == (timedelta(milliseconds=50), timedelta(seconds=1))


def test_an_endless_load_goes_on_until_its_tracks_end(receiver):
    ends = threading.Event()

    def tracks():
        while not ends.is_set():
            yield (STARTED,)

    def stop_after_twenty(_response: SimulatorResponse) -> None:
        if len(receiver.kept) >= 20:
            ends.set()

    asyncio.run(send(receiver.url, tracks(), CURRENT, on_response=stop_after_twenty, connections=3))
    assert 20 <= len(receiver.kept) <= 25


def test_a_sender_reuses_its_connection(receiver):
    asyncio.run(send(receiver.url, [(STARTED,)] * 30, CURRENT, on_response=lambda _: None, connections=2))
    assert len(receiver.kept) == 30
    assert len(receiver.clients) <= 2
