"""One connection serves many requests, and reads every kind of response."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from ingest.simulator import connection
from ingest.simulator.connection import NO_RESPONSE, KeepAliveConnection
from ingest.simulator.requests import TransferMode

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"


def exchange(*responses: bytes, ends: bool = False, post: Callable[[KeepAliveConnection], Awaitable[object]]):
    """Serve each request the next response, then close if it is the last one; return what `post` does."""
    left = list(responses)
    received = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while left and (head := await reader.read(100_000)):
            received.append(head)
            writer.write(left.pop(0))
            await writer.drain()
            if ends:
                break
        writer.close()

    async def run():
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        client = KeepAliveConnection(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/base/")
        async with server, asyncio.timeout(20):
            try:
                return await post(client), client.opened, received
            finally:
                client.close()

    return asyncio.run(run())


async def twice(client: KeepAliveConnection) -> list[tuple[int, bytes]]:
    return [await client.post("/events", {}, b"{}") for _ in range(2)]


async def once(client: KeepAliveConnection) -> tuple[int, bytes]:
    return await client.post("/events", {"x-name": "value"}, b"body")


def test_a_connection_is_kept_for_the_next_request():
    responses, opened, _ = exchange(OK, OK, post=twice)
    assert (responses, opened) == ([(200, b"{}")] * 2, 1)


def test_a_connection_that_the_receiver_closed_is_opened_again():
    responses, opened, _ = exchange(OK.replace(b"content", b"connection: close\r\ncontent"), OK, ends=True, post=twice)
    assert (responses, opened) == ([(200, b"{}")] * 2, 2)


def test_a_request_has_the_path_below_the_url_its_headers_and_its_length():
    _, _, (request,) = exchange(OK, post=once)
    head, body = request.split(b"\r\n\r\n")
    assert head.startswith(b"POST /base/events HTTP/1.1\r\nhost: 127.0.0.1:")
    assert head.endswith(b"\r\nx-name: value\r\ncontent-length: 4")
    assert body == b"body"


@pytest.mark.parametrize(
    ("response", "ends"),
    [
        (b"HTTP/1.1 201 Created\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", False),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 Created\r\ncontent-length: 2\r\n\r\n{}", False),
        (b"HTTP/1.0 201 Created\r\n\r\n{}", True),
    ],
)
def test_chunked_interim_and_unbounded_responses_are_read(response, ends):
    assert exchange(response, ends=ends, post=once)[0] == (201, b"{}")


@pytest.mark.parametrize(
    "response", [b"", b"HTTP/1.1 200", b"SSH-2.0-OpenSSH\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{"]
)
def test_a_connection_that_ends_without_a_valid_response_raises(response):
    with pytest.raises(NO_RESPONSE):
        exchange(response, ends=True, post=once)


def test_a_receiver_that_does_not_listen_raises():
    async def run():
        await once(KeepAliveConnection("http://127.0.0.1:1"))

    with pytest.raises(NO_RESPONSE):
        asyncio.run(run())


def test_a_refusal_before_the_end_of_a_slow_body_is_the_response(monkeypatch):
    monkeypatch.setattr(connection, "SLOW_PIECES", 10_000)

    async def slow(client: KeepAliveConnection):
        first = await client.post("/events", {}, b"x" * 10_000, TransferMode.SLOW)
        return first, await client.post("/events", {}, b"{}")

    refusal = b"HTTP/1.1 413 Too Large\r\ncontent-length: 0\r\n\r\n"
    monkeypatch.setattr(connection, "SLOW_BODY", connection.SLOW_BODY * 100)
    (first, second), opened, _ = exchange(refusal, OK, post=slow)
    assert (first, second, opened) == ((413, b""), (200, b"{}"), 2)


def test_a_request_that_is_given_up_does_not_leave_its_response_to_the_next_one():
    async def impatient(client: KeepAliveConnection):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await once(client)
        return await once(client)

    response, opened, _ = exchange(b"HTTP/1.1 100 Continue\r\n\r\n", OK, post=impatient)
    assert (response, opened) == ((200, b"{}"), 2)
