"""The first page: how everything stands, and what can be put right there."""

import re
from dataclasses import dataclass
from datetime import datetime

import pytest
from starlette.testclient import TestClient

from ingest.config.settings import load_settings
from tests.faults.documents import HOSTILE
from tests.workers.console.conftest import csrf_token
from tests.workers.console.past import fill
from workers.commands.check.basics import CheckStatus
from workers.commands.check.processes import check_now
from workers.console import now_page
from workers.console.console_server import access_routes, with_access_control


@dataclass(frozen=True)
class Found:
    status: CheckStatus
    subject: str
    sentence: str


@pytest.fixture
def console_with(node, monkeypatch):
    for name, value in node.environment.items():
        monkeypatch.setenv(name, value)

    def build(checks):
        settings = load_settings()
        app = with_access_control(settings, node.engine, access_routes(settings, node.engine), checks)
        return TestClient(app, base_url="http://localhost")

    return build


def test_each_subject_is_one_line_with_how_it_is_and_what_to_do(console_with):
    bad = Found(CheckStatus.FAIL, "workers", "None runs: start `webhooks work`.")
    page = console_with(lambda _settings: [bad, Found(CheckStatus.OK, "redis", "It answers.")]).get("/").text
    assert re.search(r"not well</span>\s*<strong>workers</strong> None runs: start `webhooks work`\.", page)
    assert re.search(r"well</span>\s*<strong>redis</strong>", page)


def test_the_lines_are_those_of_check(node, console_with):
    page = console_with(check_now).get("/").text
    for subject in ("inbox", "redis", "database", "serve"):
        assert f"<strong>{subject}</strong>" in page


def test_an_alert_is_resolved_on_the_page_and_that_is_recorded(any_node, console_of):
    fill(any_node, failures=2)
    console = console_of(any_node)
    page = console.get("/").text
    assert "2 runs of add_points were given up." in page
    urls = re.findall(r'action="(/alerts/[0-9a-f]+/resolve)"', page)
    assert len(urls) == 2
    for url in urls:
        answer = console.post(url, data={"csrf_token": csrf_token(console)})
        assert "The alert is resolved." in answer.text
    assert "/resolve" not in console.get("/").text
    assert any_node.rows("alerts", "--open") == []
    assert {act["act"] for act in any_node.rows("audit")} == {"resolved"}


def test_numbers_of_today_and_of_the_last_hour_are_shown(node, event, console):
    for number in range(3):
        node.settle(event("SESSION_STARTED", f"s{number}", userId="u"), received_at=datetime.now().astimezone())
    page = console.get("/").text
    assert "SESSION_STARTED 3" in page
    assert "3 deliveries" in page


def test_live_events_bring_the_page_again(console, monkeypatch):
    monkeypatch.setattr(now_page, "LIVE_EVERY", 0.01)
    with console.stream("GET", "/live") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = answer.iter_lines()
        assert next(lines) == "event: now"
        assert any("<h2>Health</h2>" in next(lines) for _ in range(50))


def test_settings_in_force_are_shown_and_secrets_are_not(node, console):
    page = console.get("/settings").text
    assert "PLUGSURFING_HMAC_CURRENT" in page
    assert node.environment["PLUGSURFING_HMAC_CURRENT"] not in page


def test_quarantine_is_verified_again_on_its_page(node, console):
    node.keep(b"{}")
    answer = console.post("/quarantine/reverify", data={"csrf_token": csrf_token(console)})
    assert "Let in: 0. Still refused: 0." in answer.text


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_what_comes_from_outside_is_text_on_the_first_page(node, console_of, text):
    fill(node, user=f"u{text}", text=text, failures=1)
    answer = console_of(node).get("/")
    assert answer.status_code == 200
    assert "<script>alert" not in answer.text
    assert "<img" not in answer.text
