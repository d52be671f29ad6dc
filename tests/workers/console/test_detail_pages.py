"""The pages of one session, one delivery and one push."""

import html
from datetime import UTC, datetime

import pytest
from sqlalchemy import update

from tests.workers.console.conftest import reveal
from tests.workers.console.past import fill
from workers.console.page_template import path_to
from workers.ledger.states import Outcome
from workers.ledger.tables.core_tables import deliveries, runs


@pytest.fixture
def filled(any_node, console_of):
    fill(any_node, failures=1)
    return any_node, console_of(any_node)


def test_a_session_is_a_picture_and_the_list_that_the_command_prints(filled):
    _, console = filled
    page = console.get("/sessions/warned").text
    assert page.count('<circle class="mark') == 6  # four events, the push, the CDR
    assert '<line class="fee"' in page
    assert '<rect class="charging"' in page
    for text in ("SESSION_FEE_INCURRING", "push by fcm", "a CDR of 7.03 EUR", "status STARTED"):
        assert text in page


def test_the_driver_of_a_session_is_masked_until_asked_for(filled):
    _, console = filled
    assert "dana@example.com" not in console.get("/sessions/warned").text
    reveal(console, "/sessions/warned")
    assert console.get("/sessions/warned").text.count("dana@example.com") >= 2
    assert "dana@example.com" not in console.get("/sessions/late").text


def test_a_body_is_masked_until_asked_for_and_that_is_recorded(filled):
    node, console = filled
    (row,) = [row for row in node.rows("deliveries", "--session", "warned") if row["event"] == "SESSION_STARTED"]
    url = f"/deliveries/{row['id']}"
    before = console.get(url).text
    assert "userId" not in before
    assert "base64" not in before
    reveal(console, url)
    shown = html.unescape(console.get(url).text)
    assert '"userId": "dana@example.com"' in shown
    assert "base64 -d | curl -X POST" in shown
    assert [(act["act"], act["subject"]) for act in node.rows("audit")] == [("body_viewed", url)]


def test_the_beginning_of_an_id_leads_to_the_delivery(filled):
    node, console = filled
    row = node.rows("deliveries")[-1]
    assert console.get(f"/deliveries/{row['id'][:10]}").url.path == f"/deliveries/{row['id']}"
    assert console.get("/deliveries/zz").status_code == 404


def test_a_push_is_shown_with_the_reason_why_it_died(filled):
    node, console = filled
    (push,) = node.rows("pushes", "--state", "dead")
    page = console.get(f"/pushes/{push['id'][:12]}").text
    assert "UNREGISTERED: the app was removed" in page
    assert "dana@example.com" not in page
    assert console.get("/pushes/zz").status_code == 404


@pytest.mark.parametrize("name", ["two\nlines", "\r\n", "a\0b", "a/b?c#d e", "x.json"])
def test_a_page_is_found_by_its_link_whatever_its_name_is(any_node, console_of, event, name):
    any_node.settle(event("SESSION_STARTED", f"s{name}", userId=f"u{name}"), ("session_record", Outcome.DONE))
    console = console_of(any_node)
    for section, each in (("sessions", f"s{name}"), ("drivers", f"u{name}")):
        assert console.get(path_to(section, each)).status_code == 200
        assert console.get(f"/api{path_to(section, each)}").status_code == 200
    for section in ("deliveries", "pushes"):
        assert console.get(path_to(section, f"{name}\0")).status_code == 404


def test_a_body_that_was_deleted_is_said_to_be_gone_and_is_no_curl(node, console, event, noon):
    delivery_id = node.settle(event("SESSION_STARTED", "gone"))
    with node.engine.begin() as conn:
        gone = {"body": b"", "body_deleted_at": noon, "body_deletion": "retention"}
        conn.execute(update(deliveries).where(deliveries.c.id == delivery_id).values(gone))
    page = console.get(f"/deliveries/{delivery_id}").text
    assert "deleted on 2026-05-04, retention" in page
    assert "Show body" not in page
    reveal(console, f"/deliveries/{delivery_id}")
    assert "base64" not in console.get(f"/deliveries/{delivery_id}").text


def test_the_message_of_an_error_is_masked_like_the_body_that_it_may_hold(node, console, event):
    delivery_id = node.settle(event("SESSION_STARTED"), ("thanks", Outcome.DEAD), error="ValueError: dana@example.com")
    with node.engine.begin() as conn:
        trace = 'Traceback\n  File "thanks.py", line 1, in thanks\n    raise\nValueError: dana@example.com'
        ended = {"traceback": trace, "reason": "dana@example.com"}  # as failed() records it
        conn.execute(update(runs).values(**ended, finished_at=datetime(2026, 5, 4, 12, tzinfo=UTC)))
    url = f"/deliveries/{delivery_id}"
    for path in (
        url,
        f"/api{url}",
        "/api/deliveries",
        "/deliveries.json",
        "/deliveries.csv",
        "/sessions/L60XMxWy0oP",
        "/api/sessions/L60XMxWy0oP",
    ):
        answer = console.get(path)
        assert answer.status_code == 200
        assert "ValueError" in answer.text, path
        assert "dana" not in answer.text, path
    assert '<time datetime="2026-05-04T12:00:00Z">' in console.get(url).text
    reveal(console, url)
    assert "ValueError: dana@example.com" in html.unescape(console.get(url).text)


def test_as_curl_sends_to_the_port_of_this_installation(node, console_of, event):
    delivery_id = node.settle(event("SESSION_STARTED"))
    node.environment["PORT"] = "8765"
    console = console_of(node)
    reveal(console, f"/deliveries/{delivery_id}")
    assert "http://127.0.0.1:8765/plugsurfing/events" in console.get(f"/deliveries/{delivery_id}").text
