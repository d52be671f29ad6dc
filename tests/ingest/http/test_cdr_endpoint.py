"""The endpoint for CDRs: it answers in time whatever happens behind it, and keeps the request id."""

import contextlib
import json
import socket
import time

import httpx
import pytest

from ingest.config.settings import load_settings
from ingest.http.app import PATHS, create_app
from ingest.inbox.schema import FILE_NAME, open_inbox_file
from ingest.wire.envelope import Kind
from ingest.wire.signature import sign

KEY = "the-current-key"
IN_TIME = 5.0
"""What Plugsurfing allows; an answer after it is none."""


def post(port, body, **headers):
    headers["X-HMAC-SHA512-Signature"] = sign(body, KEY.encode())
    return httpx.post(f"http://127.0.0.1:{port}{PATHS[Kind.CDRS]}", content=body, headers=headers, timeout=30)


def kept(folder):
    with contextlib.closing(open_inbox_file(folder / FILE_NAME)) as file:
        return [
            (bytes(body), json.loads(headers))
            for body, headers in file.execute(
                "SELECT body, headers FROM deliveries WHERE body IS NOT NULL ORDER BY seq"
            )
        ]


@pytest.fixture
def hanging():
    """The address of a server that takes connections and never says anything."""
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture
def nobody():
    """An address where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.parametrize("behind", ["nobody", "hanging"])
def test_a_cdr_is_answered_in_time_with_database_and_redis_away(tmp_path, serving, request, behind):
    address = request.getfixturevalue(behind)
    settings = load_settings(
        data_dir=tmp_path,
        plugsurfing_hmac_current=KEY,
        redis_url=f"redis://{address}/0",
        database_url=f"postgresql://webhooks:webhooks@{address}/webhooks",
    )
    port = serving(create_app(settings))
    bodies = [json.dumps({"requestId": f"r-{number}", "cost": {"total": 0.1}}).encode() for number in range(20)]
    took = []
    for body in [*bodies, bodies[0], b"not JSON"]:
        begun = time.monotonic()
        answer = post(port, body)
        took.append(time.monotonic() - begun)
        assert answer.status_code == 200
    assert max(took) < IN_TIME
    assert [body for body, _ in kept(tmp_path)] == [*bodies, b"not JSON"]


def test_the_header_with_the_request_id_is_kept_whatever_its_name(tmp_path, serving):
    settings = load_settings(
        data_dir=tmp_path, plugsurfing_hmac_current=KEY, cdr_request_id="/requestId,Delivery-Number"
    )
    port = serving(create_app(settings))
    assert post(port, b"{}", **{"Delivery-Number": "n-1", "Other": "x"}).status_code == 200
    ((_, headers),) = kept(tmp_path)
    assert headers["delivery-number"] == "n-1"
    assert "other" not in headers
