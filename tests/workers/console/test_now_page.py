"""The first page: how everything stands, and what can be put right there."""

import re
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from threading import Event

import pytest
from starlette.testclient import TestClient

from ingest.config.settings import load_settings
from tests.workers.console.conftest import csrf_token
from tests.workers.console.past import fill
from workers.alerts.alerts import Alert, AlertKind, raise_alert
from workers.commands.check.check_result import CheckStatus
from workers.commands.check.processes import check_now
from workers.console import now_page, overview
from workers.console.console_server import access_routes, with_access_control
from workers.ledger.stats_queries import read_stats


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


def test_a_page_that_is_opened_again_later_waits_for_what_is_so_now(console_with, monkeypatch):
    found = [Found(CheckStatus.OK, "redis", "It answers.")]
    console = console_with(lambda _settings: list(found))
    console.get("/")
    monkeypatch.setattr(overview, "KEPT_FOR", 0.0)
    monkeypatch.setattr(overview, "OLD_AFTER", timedelta(0))
    found[:] = [Found(CheckStatus.FAIL, "redis", "It is gone.")]
    assert "It is gone." in console.get("/").text


def test_a_page_says_how_old_it_is_while_a_check_hangs(console_with, monkeypatch):
    is_over, hangs = Event(), Event()

    def check(_settings):
        if hangs.is_set():
            is_over.wait(10)
        return [Found(CheckStatus.OK, "redis", "It answers.")]

    console = console_with(check)
    assert "is asked and does not answer" not in console.get("/").text
    monkeypatch.setattr(overview, "KEPT_FOR", 0.0)
    monkeypatch.setattr(overview, "OLD_AFTER", timedelta(0))
    monkeypatch.setattr(overview, "PATIENCE", 0.01)
    hangs.set()
    try:
        assert re.search(
            r"That was .+ ago: Redis, the ledger or a process is asked and does not answer", console.get("/").text
        )
    finally:
        is_over.set()


def test_a_picture_of_rates_names_their_unit(node, console):
    fill(node, failures=1)
    assert 'aria-label="At most 0 a minute"' in console.get("/").text
    assert 'aria-label="At most 1 an hour"' in console.get("/failures").text


def test_the_lines_are_those_of_check(node, console_with):
    page = console_with(check_now).get("/").text
    for subject in ("inbox", "redis", "database", "serve", "relay"):
        assert f"<strong>{subject}</strong>" in page


def test_an_alert_is_resolved_on_the_page_and_that_is_recorded(any_node, console_of):
    fill(any_node, failures=2)
    console = console_of(any_node)
    page = console.get("/").text
    assert "2 runs of add_points were given up." in page
    assert "<strong>Dead letters</strong>" in page
    urls = re.findall(r'action="(/alerts/[0-9a-f]+/resolve)"', page)
    assert len(urls) == 2
    for url in urls:
        answer = console.post(url, data={"csrf_token": csrf_token(console)})
        assert "The alert is resolved." in answer.text
    assert "/resolve" not in console.get("/").text
    assert any_node.rows("alerts", "--open") == []
    assert {act["act"] for act in any_node.rows("audit")} == {"resolved"}


@pytest.mark.parametrize("kind", now_page.PAGES_OF_ALERTS)
def test_an_alert_leads_to_what_it_is_about(node, console, kind):
    with node.engine.begin() as conn:
        raise_alert(conn, Alert(kind, "x", "Something is wrong."), datetime.now(UTC))
    (url,) = re.findall('href="([^"]+)">See what it is about', console.get("/").text)
    assert console.get(url).status_code == 200


def test_numbers_of_today_and_of_the_last_hour_are_shown(node, event, console):
    for number in range(3):
        node.settle(event("SESSION_STARTED", f"s{number}", userId="u"), received_at=datetime.now().astimezone())
    page = console.get("/").text
    assert "SESSION_STARTED 3" in page
    assert "3 deliveries" in page


def test_a_live_event_brings_the_page_again_and_ends(console):
    answer = console.get("/live")
    assert answer.headers["content-type"].startswith("text/event-stream")
    retry, name, *data = answer.text.strip().splitlines()
    assert retry == f"retry: {now_page.LIVE_EVERY}"
    assert name == "event: now"
    assert all(line.startswith("data: ") for line in data)
    assert "data: <h2>Health</h2>" in data


def test_what_waits_in_the_inbox_is_the_oldest_unsettled(node, event, console):
    node.settle(event("SESSION_STARTED", "s0", userId="u"))
    node.keep(event("SESSION_STARTED", "s1", userId="u"), received_at=datetime(2026, 11, 28, 12, tzinfo=UTC))
    assert re.search(r'oldest unsettled</dt><dd>\s*<time datetime="2026-11-28T12:00:00', console.get("/").text)


@pytest.mark.parametrize("path", ["/", "/live"])
def test_without_a_ledger_the_page_says_what_is_wrong(console_with, node, path):
    bad = Found(CheckStatus.FAIL, "database", "It does not answer.")
    console = console_with(lambda _settings: [bad])
    node.engine.dispose()
    for file in node.folder.glob("ledger.db*"):
        file.unlink()
    answer = console.get(path)
    assert answer.status_code == 200
    assert "It does not answer." in answer.text
    assert "The ledger cannot be read." in answer.text


def test_settings_in_force_are_shown_and_secrets_are_not(node, console):
    page = console.get("/settings").text
    assert "PLUGSURFING_HMAC_CURRENT" in page
    assert node.environment["PLUGSURFING_HMAC_CURRENT"] not in page


def test_what_became_of_warnings_is_said_in_the_words_of_their_list(console_with, monkeypatch):
    def stats(_conn, since, until, **_options):
        return replace(read_stats(_conn, since, until), warnings={"sent": 2, "late": 1, "moot": 3})

    monkeypatch.setattr(overview, "read_stats", stats)
    page = console_with(overview.no_checks).get("/").text
    assert "warned in time 2, too late 1, nobody to tell, or nothing to tell any more 3" in page


@pytest.mark.parametrize("path", ["/", "/live"])
def test_what_cannot_be_read_is_not_none(console_with, node, path):
    console = console_with(overview.no_checks)
    node.engine.dispose()
    for file in node.folder.glob("ledger.db*"):
        file.unlink()
    page = console.get(path).text
    assert "0 deliveries" not in page
    assert re.search(r"oldest unsettled</dt><dd>\s*not known", page)


def test_a_line_says_since_when_it_was_seen_so(console_with):
    page = console_with(lambda _settings: [Found(CheckStatus.OK, "redis", "It answers.")]).get("/").text
    assert "seen since <time" in page


def test_what_was_done_is_said_once(node, console):
    with node.engine.begin() as conn:
        raise_alert(conn, Alert(AlertKind.GAP, "x", "Something is wrong."), datetime.now(UTC))
    (url,) = re.findall(r'action="(/alerts/[0-9a-f]+/resolve)"', console.get("/").text)
    assert "The alert is resolved." in console.post(url, data={"csrf_token": csrf_token(console)}).text
    assert "The alert is resolved." not in console.get("/pushes").text
