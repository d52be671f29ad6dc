import json
import shlex
import socket
import threading

import pytest
import uvicorn

from ingest.authorize.authorize_app import create_authorize_app
from ingest.authorize.timed_protocol import TimedHttpProtocol
from ingest.config.settings import load_settings
from ingest.server.serve import uvicorn_config
from workers.policies.pool import PolicyProcessPool

CREDENTIALS = {"AUTHORIZE_CREDENTIALS": "a secret\nanother"}


def printed(node, *words, **environment):
    line = shlex.split(node.run("ask", "--print", *words, **{**CREDENTIALS, **environment}).stdout)
    return line[3], [line[n + 1] for n, word in enumerate(line) if word == "--header"], json.loads(line[-1])


def test_plugsurfings_format_has_each_part_where_the_settings_expect_it(node):
    words = ("--key", "04A1", "--session", "s1", "--location", "l1", "--reference", "r1", "--country", "DE")
    url, headers, body = printed(node, *words, AUTHORIZE_KEY="/token/uid,/key")
    assert url == "http://127.0.0.1:8001/plugsurfing/authorizations"
    assert "authorization: a secret" in headers
    assert body == {
        "token": {"uid": "04A1"},
        "sessionId": "s1",
        "locationId": "l1",
        "referenceId": "r1",
        "countryCode": "DE",
    }


def test_ocpis_format_has_the_key_in_its_path(node):
    url, headers, body = printed(node, "--form", "ocpi", "--key", "04/A1", "--location", "l1", "--url", "http://there/")
    assert url == "http://there/ocpi/2.2.1/tokens/04%2FA1/authorize?type=RFID"
    assert "authorization: Token YSBzZWNyZXQ=" in headers
    assert body == {"location_id": "l1"}


def test_without_credentials_no_request_is_made(node):
    assert "AUTHORIZE_CREDENTIALS" in node.run("ask", code=2).stderr


def test_a_receiver_that_does_not_answer_is_a_failure(node):
    assert "Nothing answers" in node.run("ask", "--url", "http://127.0.0.1:1", code=1, **CREDENTIALS).stderr


class NullRecorder:
    """A recorder that drops every decision."""

    def record(self, verdict):
        pass

    start = stop = lambda _self: None


@pytest.fixture
def url(tmp_path, until):
    """The URL of `authorize` without policies."""
    settings = load_settings(data_dir=tmp_path, authorize_credentials="a secret")
    app = create_authorize_app(settings, PolicyProcessPool(settings, ()), NullRecorder())
    server = uvicorn.Server(uvicorn_config(app, settings, TimedHttpProtocol))
    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    until(lambda: server.started)
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = True
    thread.join()


def last_line(node, *words, **environment):
    """The last line of output; `authorize` in this process writes its log there, too."""
    return node.run("ask", *words, **{**CREDENTIALS, **environment}).stdout.splitlines()[-1]


def test_the_answer_is_printed(node, url):
    plain = json.loads(last_line(node, "--url", url, "--json"))
    assert (plain["status"], plain["answer"]) == (200, {"allowed": "ALLOWED"})
    assert (
        json.loads(last_line(node, "--form", "ocpi", "--url", url, "--json"))["answer"]["data"]["allowed"] == "ALLOWED"
    )
    assert last_line(node, "--url", url).startswith('200 {"allowed": "ALLOWED"}')


def test_refused_credentials_are_an_exit_code(node, url):
    assert last_line(node, "--url", url, code=1, AUTHORIZE_CREDENTIALS="wrong").startswith("403")
