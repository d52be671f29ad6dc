import asyncio

import pytest
from structlog.testing import capture_logs

from ingest.http.error_boundary import ErrorBoundary
from ingest.metrics import Metrics

HTTP = {"type": "http", "path": "/with/a-key"}


async def receive():
    return {"type": "http.request", "body": b"", "more_body": False}


def run(app, scope=HTTP):
    """Run an application inside of the boundary; return what it sent, and the metrics."""
    sent = []
    metrics = Metrics()

    async def send(message):
        if message["type"] == "http.response.start" and sent:
            raise RuntimeError("the answer has begun")
        sent.append(message)

    asyncio.run(ErrorBoundary(app, metrics, "Not now.", "a route")(scope, receive, send))
    return sent, metrics.text({}).decode()


def test_a_response_passes_unchanged():
    async def app(_scope, _receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})

    sent, text = run(app)
    assert [message["type"] for message in sent] == ["http.response.start"]
    assert "Unexpected" not in text


@pytest.mark.parametrize("error", [ValueError("a secret"), asyncio.CancelledError()])
def test_whatever_is_raised_becomes_503(error):
    async def app(*_):
        raise error

    with capture_logs() as logs:
        sent, text = run(app)
    assert sent[0]["status"] == 503
    assert (b"retry-after", b"5") in sent[0]["headers"]
    assert sent[1]["body"] == b'{"error": "Not now."}'
    assert 'webhooks_requests_refused_total{reason="Unexpected"} 1.0' in text
    assert {line["route"] for line in logs} <= {"a route"}
    assert not [word for word in ("a secret", "a-key") if word in str(logs)]


def test_a_response_that_had_begun_is_left_to_the_server():
    async def app(_scope, _receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise ValueError

    assert [message["status"] for message in run(app)[0]] == [200]


def test_errors_outside_a_request_are_raised():
    async def app(*_):
        raise ValueError("cannot start")

    with pytest.raises(ValueError, match="cannot start"):
        run(app, {"type": "lifespan"})
