"""The channel `http` against a real service: its requests, and the meaning of the responses."""

import json
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from starlette.responses import Response, StreamingResponse

from ingest.config.settings import load_settings
from ingest.errors import SettingsError
from ingest.wire.signature import sign
from workers.clock.push_sender import send_due
from workers.ledger.states import PushState
from workers.push.http import HttpChannel
from workers.push.registry import open_channels


def test_a_push_is_posted_and_signed_as_plugsurfing_signs(push_node, provider):
    node = push_node()
    push_id = node.push(session_id="s1", payload={"fee": "x"}, expires_at=datetime.now(UTC) + timedelta(hours=1))
    assert send_due(node.resources) == 1
    (body,), (headers,) = provider.bodies, provider.headers
    assert {name: body[name] for name in ("id", "user_id", "session_id", "title", "body", "payload")} == {
        "id": push_id,
        "user_id": "driver-1",
        "session_id": "s1",
        "title": "Fee",
        "body": "Soon",
        "payload": {"fee": "x"},
    }
    assert datetime.fromisoformat(body["expires_at"]) > datetime.now(UTC)
    raw = json.dumps(body, separators=(",", ":")).encode()
    assert headers["x-hmac-sha512-signature"] == sign(raw, b"the-key")
    assert datetime.fromisoformat(headers["x-hmac-sha512-signedat"]) <= datetime.now(UTC)
    assert headers["idempotency-key"] == push_id
    assert node.row().state is PushState.SENT


@pytest.mark.parametrize("status", [500, 502, 503, 429, 408, 425])
def test_a_temporary_failure_is_retried_with_the_same_key(push_node, provider, until, status):
    node = push_node()
    provider.respond_with(Response(status_code=status), Response(status_code=status))
    node.push()
    until(lambda: send_due(node.resources))
    row = node.row()
    assert (row.state, row.attempts, len(provider.bodies)) == (PushState.SENT, 3, 3)
    assert len({headers["idempotency-key"] for headers in provider.headers}) == 1


@pytest.mark.parametrize("status", [400, 410, 422])
def test_a_refusal_of_the_push_itself_is_dead(push_node, provider, status):
    node = push_node()
    provider.respond_with(Response(status_code=status, headers={"location": provider.url}))
    node.push()
    send_due(node.resources)
    row = node.row()
    assert (row.state, row.attempts, len(provider.bodies)) == (PushState.DEAD, 1, 1)
    assert row.error == f"the service answered {status}"


@pytest.mark.parametrize("status", [301, 401, 403, 404])
def test_a_refusal_that_may_be_mended_is_retried_and_no_redirect_is_followed(push_node, provider, status):
    node = push_node(retry_first="1m")
    provider.respond_with(Response(status_code=status, headers={"location": provider.url}))
    node.push()
    send_due(node.resources)
    row = node.row()
    assert (row.state, row.attempts, len(provider.bodies)) == (PushState.WAITING, 1, 1)
    assert row.error == f"the service answered {status}"


@pytest.mark.parametrize("is_date", [False, True])
def test_retry_after_is_obeyed(push_node, provider, is_date):
    node = push_node()
    retry_after = format_datetime(datetime.now(UTC) + timedelta(seconds=40), usegmt=True) if is_date else "40"
    provider.respond_with(Response(status_code=429, headers={"retry-after": retry_after}))
    node.push()
    send_due(node.resources)
    row = node.row()
    assert row.state is PushState.WAITING
    assert row.due_at > datetime.now(UTC) + timedelta(seconds=20)


def test_an_unreachable_service_is_retried(push_node):
    node = push_node(push_http_url="http://127.0.0.1:1/", retry_first="1m")
    node.push()
    send_due(node.resources)
    row = node.row()
    assert (row.state, row.attempts) == (PushState.WAITING, 1)
    assert row.error == "the service could not be reached: ConnectError"


def test_a_response_that_never_comes_times_out(push_node, provider):
    node = push_node(push_timeout="300ms", retry_first="1m")
    provider.is_working.clear()
    node.push()
    send_due(node.resources)
    assert node.row().state is PushState.WAITING


def test_an_endless_response_is_not_read(push_node, provider):
    def forever():
        while True:
            yield b"x" * 1024

    node = push_node()
    provider.respond_with(StreamingResponse(forever()))
    node.push()
    assert send_due(node.resources) == 1


@pytest.mark.parametrize("missing", ["push_http_url", "push_http_key"])
def test_a_missing_setting_is_refused_at_the_start(missing):
    settings = {"push": "http", "push_http_url": "https://example.org", "push_http_key": "key", missing: None}
    with pytest.raises(SettingsError, match=missing.upper()):
        open_channels(load_settings(**settings))


def test_the_key_may_be_in_a_file_and_is_not_shown(tmp_path):
    (tmp_path / "key").write_text("the-key\n")
    settings = load_settings(push="http", push_http_url="https://example.org", push_http_key_file=tmp_path / "key")
    assert HttpChannel.of(settings).key == b"the-key"
    assert "the-key" not in repr(open_channels(settings))
