"""What is forked is a process like any other: with a log and settings of its own, and killed at its own steps only."""

import contextlib
import http.client
import os
import signal
import sys

import pytest

from ingest.failpoints import VARIABLE, Failpoint
from ingest.wire.signature import SIGNATURE_HEADER, sign
from tests.faults.cluster import is_answering_http, wait_until
from tests.faults.forkserver import ForkServer
from tests.faults.keep_alive_senders import KEY, PATH, event
from tests.ports import reserve_port


@pytest.fixture
def endpoints(tmp_path):
    """Two forked processes that serve, by their port, and the folders that they were started in."""
    with ForkServer() as fork_server:
        forked, folders = {}, {}
        for _ in range(2):
            port = reserve_port()
            folders[port] = folder = tmp_path / str(port)
            folder.mkdir()
            told = {
                "PLUGSURFING_HMAC_CURRENT": KEY.decode(),
                "PORT": str(port),
                VARIABLE: ".",
                "PATH": os.environ["PATH"],
            }
            forked[port] = fork_server.launch(
                [sys.executable, "-m", "workers.cli", "serve"], folder, told, folder / "log"
            )
        for port in forked:
            wait_until(lambda port=port: is_answering_http(port), "the endpoint answers")
        yield forked, folders
        for each in forked.values():
            with pytest.raises(TimeoutError) if each.poll() is None else contextlib.nullcontext():
                each.wait(0)
            with contextlib.suppress(ProcessLookupError):
                each.send_signal(signal.SIGKILL)
            each.wait(10)


def abuse(port):
    body = event()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("POST", PATH, body, {SIGNATURE_HEADER: sign(body, KEY)})
    return connection.getresponse().status


def test_only_the_one_that_reaches_an_armed_step_is_killed(endpoints):
    forked, folders = endpoints
    one, other = forked
    (folders[one] / Failpoint.VERIFIED).touch()
    assert abuse(other) == 200
    with pytest.raises((OSError, http.client.HTTPException)):
        abuse(one)
    wait_until(lambda: forked[one].poll() is not None, "it has ended")
    assert forked[other].poll() is None
    assert all("server.listening" in (folder / "log").read_text() for folder in folders.values())
