"""What `webhooks check` says of the processes that run, and of those that should."""

import contextlib
import http.server
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import pytest
import redis

from handlers.kit.context import Push
from ingest.inbox.schema import FILE_NAME, open_inbox_file
from ingest.queue.process_registry import KEY, NodeReport, ProcessType
from tests.workers.commands.conftest import Node
from workers.alerts.alerts import Alert, AlertKind, raise_alert
from workers.ledger import pushes
from workers.ledger.pushes import NewPush, PushUpdate
from workers.ledger.states import PushState

#: What a probe needs nothing of.
HEAVY = ("sqlalchemy", "alembic", "stamina", "handlers", "workers.ledger", "workers.plugins")


@pytest.fixture
def failing(node: Node, valkey_url: str) -> Callable[..., dict[str, str]]:
    """Run the check, and return the sentences of what fails by subject."""

    def failing(*, code: int = 1) -> dict[str, str]:
        rows = node.rows("check", code=code, REDIS_URL=valkey_url)
        return {row["check"]: row["sentence"] for row in rows if row["standing"] == "fail"}

    return failing


def test_nothing_fails_while_all_run(failing: Callable[..., dict[str, str]]) -> None:
    assert failing(code=0) == {}


def test_without_a_worker_and_a_clock_it_fails_and_says_what_to_start(
    failing: Callable[..., dict[str, str]], valkey: redis.Redis
) -> None:
    valkey.delete(KEY)
    found = failing()
    assert "webhooks work" in found["workers"]
    assert "webhooks clock" in found["clock"]


def test_settings_alone_are_checked_without_anything_that_runs(
    node: Node, valkey: redis.Redis, valkey_url: str
) -> None:
    valkey.delete(KEY)
    node.run("check", "--settings", REDIS_URL=valkey_url)


def test_pushes_that_were_given_up_fail(node: Node, failing: Callable[..., dict[str, str]]) -> None:
    new = NewPush("d1", "warn", "fcm", Push("driver-1", "t", "b", "k"), datetime.now(UTC))
    with node.engine.begin() as ledger:
        pushes.insert(ledger, [new])
        pushes.mark(ledger, [PushUpdate(id=new.id, attempt=0, state=PushState.DEAD, error="the service answered 400")])
    assert "webhooks pushes retry" in failing()["pushes_dead"]


def test_requests_that_cannot_be_verified_fail(
    report: Callable[..., None], failing: Callable[..., dict[str, str]]
) -> None:
    report(ProcessType.SERVE, node=NodeReport({"The signature was made with neither key.": 30}))
    assert "webhooks keys try" in failing()["signatures_failing"]


def test_open_alerts_are_a_warning(node: Node, valkey_url: str) -> None:
    with node.engine.begin() as ledger:
        raise_alert(ledger, Alert(AlertKind.GAP, "here", "Nothing was received."), datetime.now(UTC))
    rows = node.rows("check", REDIS_URL=valkey_url)
    assert [row["sentence"][:11] for row in rows if (row["check"], row["standing"]) == ("alerts", "warn")] == [
        "Open: 1 gap"
    ]


def test_the_inbox_of_another_node_is_named_where_it_cannot_be_seen(
    node: Node, report: Callable[..., None], valkey_url: str
) -> None:
    report(ProcessType.SERVE, host="node-7")
    (node.folder / FILE_NAME).unlink(missing_ok=True)
    rows = node.rows("check", REDIS_URL=valkey_url)
    assert any("node-7" in row["sentence"] for row in rows if row["check"] == "inbox" and row["standing"] == "warn")
    deep = node.rows("check", "--deep", code=1, REDIS_URL=valkey_url)
    assert any("node-7" in row["sentence"] for row in deep if row["standing"] == "fail")


@pytest.mark.parametrize("command", ["quarantine", "reverify"])
def test_where_there_is_no_inbox_nobody_is_told_that_nothing_is_in_quarantine(node: Node, command: str) -> None:
    (node.folder / FILE_NAME).unlink(missing_ok=True)
    assert "where `serve` runs" in node.run(command, code=1).output
    open_inbox_file(node.folder / FILE_NAME).close()
    node.run(command)


@pytest.mark.parametrize("process", ["work", "clock"])
def test_a_probe_finds_a_process_of_this_host_only(
    node: Node, report: Callable[..., None], valkey: redis.Redis, valkey_url: str, process: str
) -> None:
    valkey.delete(KEY)
    report(ProcessType(process), host="another")
    node.run("check", "--live", process, code=1, REDIS_URL=valkey_url)
    report(ProcessType(process))
    node.run("check", "--live", process, REDIS_URL=valkey_url)
    report(ProcessType(process), is_stopped=True)
    node.run("check", "--live", process, code=1, REDIS_URL=valkey_url)


@pytest.mark.parametrize("process", ["work", "clock"])
def test_a_probe_lets_a_process_live_that_waits_for_its_stores(node: Node, process: str) -> None:
    """They wait for Redis and the database; an orchestrator would restart them again and again, each time later."""
    (row,) = node.rows("check", "--live", process, REDIS_URL="unix:///nowhere")
    assert (row["standing"], "not known whether it runs" in row["sentence"]) == ("warn", True)
    (row,) = node.rows(
        "check", "--live", process, REDIS_URL="unix:///nowhere", DATABASE_URL="postgresql://127.0.0.1:1/x"
    )
    assert row["standing"] == "warn"
    node.run("check", "--live", process, code=1, REDIS_URL="")


@pytest.mark.parametrize("process", ["work", "clock", "serve"])
def test_a_probe_imports_neither_what_works_with_the_ledger_nor_plugins(
    node: Node, report: Callable[..., None], valkey_url: str, process: str
) -> None:
    """It runs every few seconds beside each process: their import was more than half of it."""
    report(ProcessType(process))
    script = (
        "import sys; from click.testing import CliRunner; from workers.cli import main;"
        f" result = CliRunner().invoke(main, ['check', '--live', '{process}']); heavy = {HEAVY!r};"
        " print(result.exit_code, [name for name in sys.modules if name.startswith(heavy)])"
    )
    environment = {**node.environment, "REDIS_URL": valkey_url, "PATH": os.environ["PATH"]}
    environment |= {"PORT": "1"} | ({"QUEUE_NAMESPACE": os.environ["QUEUE_NAMESPACE"]} if process == "clock" else {})

    ended = subprocess.run(
        [sys.executable, "-c", script], env=environment, cwd=node.folder, capture_output=True, text=True, check=True
    )

    assert ended.stdout == f"{0 if process == 'clock' else 1} []\n"


@contextlib.contextmanager
def answering(status: int) -> Iterator[int]:
    """Serve a status on a port of this machine."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/healthz" else 404)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("process", "setting"), [("serve", "PORT"), ("authorize", "AUTHORIZE_PORT"), ("dashboard", "DASHBOARD_PORT")]
)
def test_a_probe_asks_the_port_of_a_process(node: Node, process: str, setting: str) -> None:
    with answering(200) as port:
        node.run("check", "--live", process, **{setting: str(port)}, HTTP_PROXY="http://127.0.0.1:1")
    node.run("check", "--live", process, code=1, **{setting: str(port)})
    with answering(500) as port:
        node.run("check", "--live", process, code=1, **{setting: str(port)})


def test_a_redis_that_forbids_dangerous_commands_passes_and_what_could_not_be_seen_is_said(
    node: Node, valkey: redis.Redis, valkey_url: str
) -> None:
    valkey.acl_setuser(
        "limited", enabled=True, nopass=True, categories=["+@all", "-@dangerous"], keys=["*"], channels=["*"]
    )
    try:
        path = valkey_url.removeprefix("unix://")
        rows = node.rows("check", REDIS_URL=f"unix://limited:any@{path}")
    finally:
        valkey.acl_deluser("limited")
    assert "fail" not in {row["standing"] for row in rows}
    assert any("INFO" in row["sentence"] for row in rows if (row["check"], row["standing"]) == ("redis", "warn"))
