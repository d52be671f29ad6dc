import asyncio
import json
import socket
import subprocess
import sys
import threading
import time
from dataclasses import asdict

import pytest
import uvicorn

from ingest.wire.signature import SIGNATURE_HEADER, sign
from tests.bench.baselines import empty
from tests.bench.http_load import Load, LoadResult, LoadSpec, bodies, request, send


@pytest.fixture
def listener():
    """A socket that the kernel has chosen the port of."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


@pytest.fixture
def receiver(listener):
    """A receiver that responds 200; its URL."""
    server = uvicorn.Server(uvicorn.Config(empty(), log_config=None))
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}/plugsurfing/events"
    server.should_exit = True
    thread.join()


def run_load(spec: LoadSpec) -> LoadResult:
    arguments = [sys.executable, "-m", "tests.bench.http_load", json.dumps(asdict(spec))]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True, timeout=60)
    return LoadResult(**json.loads(done.stdout))


def test_every_body_is_distinct_and_the_same_seed_gives_the_same():
    some = list(bodies("seed", 100))
    assert len(set(some)) == 100
    assert some == list(bodies("seed", 100))
    assert not set(some) & set(bodies("another", 100))


def test_a_request_is_signed_and_whole():
    head, _, body = request("http://localhost:1/path", b"{}", b"key").partition(b"\r\n\r\n")
    assert head.startswith(b"POST /path HTTP/1.1\r\nHost: localhost:1\r\n")
    assert f"{SIGNATURE_HEADER}: {sign(b'{}', b'key')}".encode() in head
    assert b"Content-Length: 2" in head
    assert body == b"{}"


def test_responses_other_than_200_are_counted_by_status():
    load = Load(LoadSpec("http://localhost:1/", "key", "seed", count=3, seconds=60))
    for status in (200, 503, 503):
        load.record(status, time.perf_counter())
    result = load.result()
    assert result.refused == {"503": 2}
    assert result.kept == 1
    assert result.responses == 3


def test_what_is_answered_in_the_warm_up_does_not_count():
    load = Load(LoadSpec("http://localhost:1/", "key", "seed", count=3, seconds=60, warm_up_s=60))
    load.record(200, time.perf_counter())
    assert load.result().responses == 0
    assert load.result().p50_ms == 0


def test_a_load_ends_when_its_requests_are_used_up():
    load = Load(LoadSpec("http://localhost:1/", "key", "seed", count=2, seconds=60))
    assert [load.next() is None for _ in range(3)] == [False, False, True]


def test_a_load_ends_when_its_time_is_up():
    load = Load(LoadSpec("http://localhost:1/", "key", "seed", count=2, seconds=-1))
    assert load.next() is None


def test_a_rate_spaces_requests_evenly():
    load = Load(LoadSpec("http://localhost:1/", "key", "seed", count=3, seconds=60, rate=10))
    (_, first), (_, second) = load.next(), load.next()
    assert 0 < first <= 0.1 < second <= 0.2


def test_a_process_sends_every_request_and_prints_what_came_of_it(receiver):
    result = run_load(LoadSpec(receiver, "key", "seed", count=50, seconds=30, connections=4, rate=2000))
    assert (result.kept, result.refused) == (50, {})
    assert result.rate > 0
    assert result.p99_ms >= result.p50_ms > 0


def test_bodies_may_come_from_a_file(receiver, tmp_path):
    (tmp_path / "bodies").write_bytes(b"one\ntwo\nthree")
    result = run_load(LoadSpec(receiver, "key", "seed", count=3, seconds=30, bodies=str(tmp_path / "bodies")))
    assert result.kept == 3


@pytest.mark.parametrize("connections", [1, 2])
def test_a_response_may_arrive_in_pieces_and_a_connection_may_be_closed(listener, connections):
    """The first connection is answered in pieces, and each is closed at its second request."""

    async def serve_one(reader, writer):
        await reader.readuntil(b"}}")
        for piece in (b"HTTP/1.1 200 OK\r\ncontent-le", b"ngth: 4\r\n\r\n", b"bo", b"dy"):
            writer.write(piece)
            await asyncio.sleep(0.01)
        await reader.readuntil(b"}}")
        writer.close()

    async def both():
        spec = LoadSpec(f"http://127.0.0.1:{listener.getsockname()[1]}/", "key", "seed", 9, 30, connections=connections)
        async with await asyncio.start_server(serve_one, sock=listener):
            return await send(spec)

    result = asyncio.run(both())
    assert result.refused == {"connection closed": connections}
    assert result.kept == connections
