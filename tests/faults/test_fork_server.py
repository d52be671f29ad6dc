"""A forked process has a log, settings and failpoints of its own."""

import contextlib
import fcntl
import http.client
import os
import resource
import signal
import sys

import pytest

from ingest.failpoints import VARIABLE, Failpoint
from ingest.wire.signature import SIGNATURE_HEADER, sign
from tests.faults.cluster import is_answering_http, wait_until
from tests.faults.fork_server import ForkServer, is_readable
from tests.faults.keep_alive_senders import KEY, PATH, event
from tests.ports import reserve_port


@pytest.fixture
def endpoints(tmp_path):
    """Yield two forked `serve` by port, and their folders by port."""
    with ForkServer() as fork_server:
        forked, folders = {}, {}
        for _ in range(2):
            port = reserve_port()
            folders[port] = folder = tmp_path / str(port)
            folder.mkdir()
            environment = {
                "PLUGSURFING_HMAC_CURRENT": KEY.decode(),
                "PORT": str(port),
                VARIABLE: ".",
                "PATH": os.environ["PATH"],
            }
            forked[port] = fork_server.launch(
                [sys.executable, "-m", "workers.cli", "serve"], folder, environment, folder / "log"
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


def post_event(port):
    body = event()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("POST", PATH, body, {SIGNATURE_HEADER: sign(body, KEY)})
    return connection.getresponse().status


def test_only_the_process_that_hits_an_armed_failpoint_is_killed(endpoints):
    forked, folders = endpoints
    one, other = forked
    (folders[one] / Failpoint.VERIFIED).touch()
    assert post_event(other) == 200
    with pytest.raises((OSError, http.client.HTTPException)):
        post_event(one)
    wait_until(lambda: forked[one].poll() is not None, "it has ended")
    assert forked[other].poll() is None
    assert all("server.listening" in (folder / "log").read_text() for folder in folders.values())


def test_a_descriptor_is_waited_for_whatever_its_number_is():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= hard < 1100:
        pytest.skip("no descriptor has a number above 1,023 here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 1100), hard))
    reading, writing = os.pipe()
    high = fcntl.fcntl(reading, fcntl.F_DUPFD_CLOEXEC, 1024)
    assert not is_readable(high)
    os.write(writing, b"x")
    assert is_readable(high, 10)
    os.close(writing)
    os.read(high, 1)
    assert is_readable(high)  # its other end is closed
    for each in (reading, high):
        os.close(each)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
