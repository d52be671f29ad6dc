"""Each threat of SECURITY.md names its tests, and the routes without a credential are those that it lists."""

import ast
import os
import re
import stat
from http import HTTPStatus

import httpx
import pytest
from starlette.routing import Route

from ingest.authorize.authorize_app import create_authorize_app
from ingest.config.settings import load_settings
from ingest.http.app import create_app
from ingest.inbox.corruption import lock_and_check
from ingest.inbox.schema import FILE_NAME, open_inbox_file
from ingest.server.serve import bind_sockets
from tests.faults.cluster import wait_until
from tests.ingest.authorize.conftest import FakeEvaluator, FakeRecorder
from tests.ingest.conftest import Serving
from workers.dev.dev import single_instance
from workers.dev.env_file import write_devfile
from workers.devices.devices_app import create_devices_app
from workers.ledger.database.engine import create_ledger_engine

REFUSED = {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}


def lines_under(root, heading):
    """Return the rows of the table under a heading."""
    text = (root / "SECURITY.md").read_text("utf-8")
    section = text.partition(f"### {heading}")[2].partition("\n###")[0]
    return [line for line in section.splitlines() if line.startswith("| ") and "---" not in line][1:]


def assert_points_to_tests(root, line):
    named = re.findall(r"`(tests/[^`]+\.py)::(\w+)`", line)
    assert named, line
    assert line.count("`tests/") == len(named), line
    for path, name in named:
        tree = ast.parse((root / path).read_text("utf-8"))
        assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, f"{path}::{name}"


def test_every_line_of_the_threat_model_points_to_tests(root):
    lines = lines_under(root, "What could happen")
    assert len(lines) > 20
    for line in lines:
        assert_points_to_tests(root, line)


def test_every_other_promise_points_to_tests_too(root):
    text = (root / "SECURITY.md").read_text("utf-8")
    for promise in ("requires that, and nothing else is open", "readable by its owner"):
        (paragraph,) = (each for each in re.split(r"\n(?=- )|\n\n", text) if promise in " ".join(each.split()))
        assert_points_to_tests(root, paragraph)


@pytest.fixture
def applications(settings, tmp_path):
    """Yield the applications by the name of their command."""
    engine = create_ledger_engine(f"sqlite:///{tmp_path / 'ledger.db'}")
    guarded = load_settings(data_dir=tmp_path, authorize_credentials="a-secret", admin_token="a-token", host="0.0.0.0")
    yield {
        "serve": create_app(settings),
        "authorize": create_authorize_app(guarded, FakeEvaluator(), FakeRecorder()),
        "devices serve": create_devices_app(guarded, engine),
    }
    engine.dispose()


@pytest.fixture
def serving():
    """Serve on real sockets."""
    serving = Serving(lambda condition: wait_until(condition, "it serves"))
    yield serving
    serving.stop()


#: The routes without a credential.
OPEN = {
    "serve": {"/healthz", "/readyz", "/metrics"},
    "authorize": {"/healthz", "/readyz", "/metrics", "/openapi.json"},
    "devices serve": {"/healthz", "/openapi.json"},
}


@pytest.mark.parametrize("name", OPEN)
def test_what_is_open_is_named_and_all_else_asks_for_a_credential(applications, serving, name, root):
    open_routes = set()
    with httpx.Client(base_url=f"http://127.0.0.1:{serving(applications[name])}") as client:
        for route in applications[name].routes:
            assert isinstance(route, Route)
            path = re.sub(r"\{.*\}", "driver/token", route.path)
            for method in sorted((route.methods or {"GET"}) - {"HEAD"}):
                answer = client.request(method, path, content=b"{}" if method in {"POST", "PUT"} else None)
                if answer.status_code not in REFUSED:
                    open_routes.add(route.path)
    assert open_routes == OPEN[name]
    listed = "\n".join(line for line in lines_under(root, "Who can reach what") if f"`{name}`" in line.split("|")[1])
    assert all(f"`{path}`" in listed for path in open_routes)


@pytest.mark.parametrize(
    "make", ["open_inbox_file", "lock_and_check", "bind_sockets", "single_instance", "write_devfile"]
)
def test_a_folder_that_we_make_is_readable_by_its_owner_only(tmp_path, make):
    folder = tmp_path / "var"
    if make == "open_inbox_file":
        open_inbox_file(folder / FILE_NAME).close()
    elif make == "lock_and_check":
        os.close(lock_and_check(folder / FILE_NAME))
    elif make == "bind_sockets":
        for listening in bind_sockets(load_settings(data_dir=folder, plugsurfing_hmac_current="a key", port=0)):
            listening.close()
    elif make == "single_instance":
        with single_instance(folder):
            pass
    else:
        write_devfile(folder, {})
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
