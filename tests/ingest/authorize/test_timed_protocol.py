"""The time of a request counts from its first byte, and its head has a deadline."""

import socket
import threading
import time
from types import SimpleNamespace

from ingest.authorize.timed_protocol import TimedHttpProtocol, request_started_at
from ingest.server import http_protocol


def test_the_latency_counts_from_the_first_byte_of_the_head(start):
    running = start(authorize_timeout="20s")
    running.post_raw(b"X: ", b"y\r\n", b"Content-Length: 2\r\n\r\n{}", pause=0.2)
    assert running.records()[0].latency.total_seconds() > 0.2  # of 0.4, as a busy machine hears the first byte late


def test_a_head_that_is_not_complete_in_time_gets_no_response(start, monkeypatch):
    monkeypatch.setattr(http_protocol, "HEAD_TIMEOUT", 60.0)
    running = start(authorize_timeout="300ms")
    request = b"POST /plugsurfing/authorizations HTTP/1.1\r\nAuthorization: a-secret\r\nContent-Length: 2\r\n\r\n{}"
    for before in (b"", request):
        with socket.create_connection(("127.0.0.1", running.port), timeout=30) as connection:
            connection.sendall(before + request[:60])
            content = b"".join(iter(lambda talker=connection: talker.recv(4096), b""))
        assert content.count(b"HTTP/1.1 200") == before.count(b"POST")
    assert len(running.records()) == 1
    numbers = running.client.get("/metrics").text
    assert 'webhooks_authorize_requests_refused_total{reason="LateHead"} 2.0' in numbers


def test_a_head_that_a_busy_loop_receives_too_late_is_counted_once(running, monkeypatch):
    begins, has_begun = TimedHttpProtocol.on_message_begin, threading.Event()

    def begins_long_ago(self):
        begins(self)
        now, timer = self.loop.time(), self._head_timer
        self._head_timer = SimpleNamespace(when=lambda: now, cancel=timer.cancel)
        has_begun.set()

    with monkeypatch.context() as patched:
        patched.setattr(TimedHttpProtocol, "on_message_begin", begins_long_ago)
        with socket.create_connection(("127.0.0.1", running.port), timeout=30) as connection:
            connection.sendall(b"POST /plugsurfing/authorizations HTTP/1.1\r\nHost: x")
            assert has_begun.wait(10)
            connection.sendall(b"\r\nAuthorization: a-secret\r\n\r\n")
            assert connection.recv(1) == b""
    assert 'refused_total{reason="LateHead"} 1.0' in running.client.get("/metrics").text
    assert running.evaluator.requests == []


def test_an_idle_connection_is_not_a_late_head(start, monkeypatch):
    monkeypatch.setattr(http_protocol, "HEAD_TIMEOUT", 0.1)
    running = start()
    with socket.create_connection(("127.0.0.1", running.port), timeout=30) as connection:
        assert connection.recv(1) == b""
    assert "LateHead" not in running.client.get("/metrics").text


def test_under_another_server_a_request_starts_when_it_arrives():
    before = time.monotonic()
    assert before <= request_started_at({}) <= time.monotonic()
