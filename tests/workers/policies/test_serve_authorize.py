"""The process type `authorize`, with policies in a file of their own, over HTTP."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from textwrap import dedent

import httpx
import pytest

from tests.bench.harness import children
from tests.ports import reserve_port

WEBHOOKS = str(Path(sys.executable).with_name("webhooks"))
PLUGIN = '''
"""A team's own policies."""

import time

from handlers import Allowed, AuthorizeContext, Decision, AuthorizationRequest, authorize


@authorize(order=20, name="second")
def returns_expired(request: AuthorizationRequest, ctx: AuthorizeContext) -> Decision | None:
    return Decision(Allowed.EXPIRED)


@authorize(order=10, name="first")
async def returns_blocked(request: AuthorizationRequest, ctx: AuthorizeContext) -> Decision | None:
    if request.key == "hang":
        time.sleep(600)
    return Decision(Allowed.BLOCKED) if request.key == "blocked" else None


@authorize(order=1, when=lambda settings: settings.default_locale == "nl")
def only_in_dutch(request: AuthorizationRequest, ctx: AuthorizeContext) -> Decision | None:
    return Decision(Allowed.NO_CREDIT)
'''


@pytest.fixture
def environment(tmp_path):
    return {
        "PATH": os.environ["PATH"],
        "AUTHORIZE_CREDENTIALS": "a-secret",
        "AUTHORIZE_PORT": str(reserve_port()),
        "AUTHORIZE_TIMEOUT": "1",
        "AUTHORIZE_ON_FAILURE": "NOT_ALLOWED",
        "HANDLER_MODULES": "team_policies",
        "DATA_DIR": str(tmp_path / "var"),
        "LOG_FORMAT": "json",
    }


def write_plugin(tmp_path, text):
    (tmp_path / "team_policies.py").write_text(dedent(text))


def run_to_its_end(tmp_path, environment):
    """Start the process; return its exit code and its output."""
    ended = subprocess.run(
        [WEBHOOKS, "authorize"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    return ended.returncode, ended.stderr


@pytest.fixture
def process(tmp_path, environment):
    """The running process."""
    write_plugin(tmp_path, PLUGIN)
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen([WEBHOOKS, "authorize"], cwd=tmp_path, env=environment, stderr=log)
    yield process
    process.kill()
    process.wait()


@pytest.fixture
def client(tmp_path, environment, process):
    """A client, once the process is ready."""
    with httpx.Client(
        base_url=f"http://127.0.0.1:{environment['AUTHORIZE_PORT']}", headers={"Authorization": "a-secret"}, timeout=30
    ) as client:
        until = time.monotonic() + 60
        while True:
            try:
                if client.get("/readyz").status_code == 200:
                    break
            except httpx.TransportError:
                assert process.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < until
            time.sleep(0.05)
        yield client


def test_without_credentials_it_does_not_start(tmp_path, environment):
    write_plugin(tmp_path, PLUGIN)
    del environment["AUTHORIZE_CREDENTIALS"]
    code, output = run_to_its_end(tmp_path, environment)
    assert code == 2
    assert output.count("\n") == 1
    assert "AUTHORIZE_CREDENTIALS is not set" in output


def test_with_a_broken_plugin_it_does_not_start_and_names_the_file(tmp_path, environment):
    write_plugin(tmp_path, "from handlers import authorise\n")
    code, output = run_to_its_end(tmp_path, environment)
    assert code != 0
    assert output.count("\n") == 1
    assert "team_policies.py, line 1, cannot be loaded" in output


def test_two_policies_of_one_name_are_refused(tmp_path, environment):
    write_plugin(tmp_path, PLUGIN.replace('name="second"', 'name="first"'))
    code, output = run_to_its_end(tmp_path, environment)
    assert code != 0
    assert "both have a policy named first" in output


def test_policies_decide_in_their_order_and_in_time(process, client, tmp_path):
    def allowed(**document):
        return client.post("/plugsurfing/authorizations", json=document).json()["allowed"]

    assert allowed(keyIdentifier="blocked") == "BLOCKED"
    assert allowed(keyIdentifier="another") == "EXPIRED"
    token = client.post("/ocpi/2.2.1/tokens/blocked/authorize", headers={"Authorization": "Token YS1zZWNyZXQ="})
    assert token.json()["data"]["allowed"] == "BLOCKED"
    started_at = time.monotonic()
    assert allowed(keyIdentifier="hang") == "NOT_ALLOWED"
    assert time.monotonic() - started_at < 10
    assert allowed(keyIdentifier="blocked", again=True) == "BLOCKED"
    log = (tmp_path / "log").read_text()
    assert '"policies": ["first", "second"]' in log
    assert "keyIdentifier" not in log
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 0, (tmp_path / "log").read_text()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has a death signal")
def test_no_process_is_left_after_authorize_is_killed_though_a_policy_hangs(process, client):
    started = {each for child in children(process.pid) for each in (child, *children(child))}
    assert len(started) >= 3
    with ThreadPoolExecutor() as threads:
        response = threads.submit(client.post, "/plugsurfing/authorizations", json={"keyIdentifier": "hang"})
        time.sleep(0.3)
        process.kill()
        assert isinstance(response.exception(), httpx.TransportError)
    until = time.monotonic() + 30
    while living := {pid for pid in started if is_running(pid)}:
        assert time.monotonic() < until, living
        time.sleep(0.05)


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
