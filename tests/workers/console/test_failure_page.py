"""Failures: one row a cause, and one click that runs them again or sends them again."""

import re
from datetime import timedelta

import pytest
from sqlalchemy import select, update

from ingest.wire.timestamps import utc_now
from tests.workers.console.conftest import csrf_token, keys_of
from tests.workers.console.past import PLUGIN, fill
from workers.console.replay_status_page import count_runs
from workers.ledger.dead_runs import frames_of, place_of
from workers.ledger.states import WHOLE_DELIVERY, Outcome, PushState
from workers.ledger.tables.core_tables import pushes, runs


@pytest.fixture
def filled(any_node, console_of, monkeypatch):
    (any_node.folder / "loyalty.py").write_text(PLUGIN)
    monkeypatch.setenv("HANDLER_MODULES", "handlers,loyalty")
    monkeypatch.syspath_prepend(str(any_node.folder))
    fill(any_node, failures=133)
    return any_node, console_of(any_node)


def test_133_failures_of_one_cause_are_one_row(filled):
    _, console = filled
    page = console.get("/failures").text
    assert len(keys_of(page)) == 2
    assert re.search(r">133</td>", page)
    assert "loyalty.py:41 in add_points" in page


def test_a_click_runs_all_of_them_again_and_is_recorded(filled):
    node, console = filled
    key = keys_of(console.get("/failures").text)[0]
    shown = console.get(f"/failures/{key}").text
    assert "Run again (133)" in shown
    answer = console.post(f"/failures/{key}/run", data={"csrf_token": csrf_token(console)})
    assert "0 of 133 have ended" in answer.text
    assert len(keys_of(console.get("/failures").text)) == 1
    assert len(node.rows("dead")) == 1
    (act,) = node.rows("audit")
    assert (act["act"], act["count"]) == ("replayed", 133)
    assert act["subject"] == "add_points KeyError loyalty.py:41 in add_points"
    assert console.get(f"/failures/{key}").status_code == 404


def test_a_page_shows_how_far_it_is_until_all_have_ended(filled):
    node, console = filled
    key = keys_of(console.get("/failures").text)[0]
    address = console.post(f"/failures/{key}/run", data={"csrf_token": csrf_token(console)}).url.path
    of_handler = update(runs).where(runs.c.handler == "add_points", runs.c.outcome == Outcome.WAITING)
    with node.engine.begin() as conn:
        ids = list(conn.scalars(select(runs.c.delivery_id).where(runs.c.outcome == Outcome.WAITING)))
        ended = {"due_at": None, "finished_at": utc_now()}
        conn.execute(of_handler.where(runs.c.delivery_id.in_(ids[:100])).values(outcome=Outcome.DONE, **ended))
        conn.execute(of_handler.where(runs.c.delivery_id.in_(ids[100:110])).values(outcome=Outcome.DEAD, **ended))
        conn.execute(of_handler.where(runs.c.delivery_id.in_(ids[110:112])).values(outcome=Outcome.AGAIN))
    for page in (console.get(address).text, console.get(f"{address}/live").text):
        assert 'value="110"' in page
        assert "110 of 133 have ended" in page
        assert ">100</dd>" in page
        assert ">10</dd>" in page
        assert "23, of which 2 failed and are tried again" in page
        assert "data-ended" not in page
    assert 'http-equiv="refresh"' in console.get(address).text
    with node.engine.begin() as conn:
        rest = update(runs).where(runs.c.handler == "add_points", runs.c.due_at.is_not(None))
        conn.execute(rest.values(outcome=Outcome.DONE, **ended))
    page = console.get(address).text
    assert "All have ended, and 10 failed again." in page
    assert 'http-equiv="refresh"' not in page


def test_what_is_not_remembered_is_a_404_that_says_where_to_look(filled):
    _, console = filled
    answer = console.get("/progress/0123456789abcdef")
    assert (answer.status_code, "among the failures" in answer.text) == (404, True)


def test_the_name_of_an_event_turns_no_text_of_the_page_around(node, console, event):
    error = "KeyError: 'points'"
    node.settle(event("NEW\u202eEVENT"), ("add_points", Outcome.DEAD), error=error)
    (key,) = keys_of(console.get("/failures").text)
    page = console.get(f"/failures/{key}").text
    assert "NEW\\u202eEVENT" in page
    assert "\u202e" not in page


def test_a_plugin_that_cannot_be_loaded_hides_no_traceback(node, console_of, monkeypatch):
    (node.folder / "half_written.py").write_text("def add_points(")
    monkeypatch.setenv("HANDLER_MODULES", "handlers,half_written")
    monkeypatch.syspath_prepend(str(node.folder))
    fill(node, failures=3)
    console = console_of(node)
    key = keys_of(console.get("/failures").text)[0]
    answer = console.get(f"/failures/{key}")
    assert answer.status_code == 200
    assert "They cannot run:" in answer.text
    assert "half_written.py, line 1, cannot be loaded" in answer.text
    assert "loyalty.py" in answer.text.partition("<h2>Traceback")[2]
    assert "<button>Run again" not in answer.text
    answer = console.post(f"/failures/{key}/run", data={"csrf_token": csrf_token(console)})
    assert (answer.status_code, "cannot be loaded" in answer.text) == (503, True)


def test_without_the_token_of_the_form_nothing_runs(filled):
    node, console = filled
    key = keys_of(console.get("/failures").text)[0]
    assert console.post(f"/failures/{key}/run").status_code == 403
    assert len(node.rows("dead")) == 134


def test_dead_pushes_are_sent_again(filled):
    node, console = filled
    (key,) = keys_of(console.get("/failures").text, "failures/pushes")
    assert "Send again (1)" in console.get(f"/failures/pushes/{key}").text
    answer = console.post(f"/failures/pushes/{key}/send", data={"csrf_token": csrf_token(console)})
    assert "0 of 1 have ended" in answer.text
    assert [push["state"] for push in node.rows("pushes", "--session", "refused")] == ["waiting"]
    with node.engine.begin() as conn:
        sent = {"state": PushState.SENT, "due_at": None, "sent_at": utc_now()}
        conn.execute(update(pushes).where(pushes.c.state == PushState.WAITING).values(sent))
    assert "All have ended." in console.get(f"{answer.url.path}/live").text
    assert [(act["act"], act["count"]) for act in node.rows("audit")] == [("resent", 1)]


def test_runs_that_became_moot_stand_apart_with_their_reason(filled):
    node, console = filled
    page = console.get("/failures").text
    apart = page[page.index("<h2>Became moot</h2>") : page.index("<h2>Pushes that no channel took</h2>")]
    assert re.search(r'"what">warn_the_driver</td>\s*<td data-name="reason"><a [^>]*>too late</a></td>', apart)
    assert "add_points" not in apart
    (moot,) = console.get("/api/failures").json()["moot"]
    assert (moot["handler"], moot["reason"], moot["count"], moot["may_be_more"]) == (
        ("warn_the_driver", "too late", 1, False)
    )
    with node.engine.begin() as conn:
        of_yesterday = {"finished_at": utc_now() - timedelta(hours=25)}
        conn.execute(update(runs).where(runs.c.outcome == Outcome.MOOT).values(of_yesterday))
    assert console.get("/api/failures").json()["moot"] == []
    assert re.search(r'Became moot</h2>\s*<p>[^<]+</p>\s*<p class="none">', console.get("/failures").text)


def test_the_place_is_the_last_line_of_our_own_code():
    trace = (
        'Traceback (most recent call last):\n  File "/x/workers/execution/runner.py", line 1, in call\n    f()\n'
        '  File "/srv/mine.py", line 7, in handle\n    requests.get(url)\n'
        '  File "/x/site-packages/requests/api.py", line 2, in get\n    raise Error(secret)\nError: dana@example.com\n'
    )
    assert place_of(trace) == "mine.py:7 in handle"
    assert "dana" not in frames_of(trace)
    assert "requests.get(url)" in frames_of(trace)
    assert place_of(None) is None


def test_a_handler_that_this_process_has_not_loaded_is_no_lost_one_but_asks_for_a_restart(node, console_of):
    fill(node, failures=2)
    console = console_of(node)
    key = keys_of(console.get("/failures").text)[0]
    page = console.get(f"/failures/{key}").text
    assert "2 cannot run: the dashboard has loaded no plugin with their handler. If there is one, restart it." in page


def test_runs_that_fail_and_are_tried_again_are_no_none(filled):
    node, console = filled
    assert "Tried again by themselves" in console.get("/failures").text
    with node.engine.begin() as conn:
        failing = {"outcome": Outcome.AGAIN, "due_at": utc_now(), "finished_at": None}
        conn.execute(update(runs).where(runs.c.handler == "add_points").values(failing))
    page = console.get("/failures").text
    assert keys_of(page) == []
    (row,) = re.findall(r"<tr>\s*<td data-name=\"what\">add_points</td>.*?</tr>", page, re.DOTALL)
    assert "134" in row
    (delivery,) = re.findall(r'href="(/deliveries/[0-9a-f]+)"', row)
    assert "add_points" in console.get(delivery).text


def test_whole_deliveries_that_are_dead_since_before_have_not_failed_again(node, console, event, noon):
    ids = [node.settle(event("SESSION_STOPPED"), (WHOLE_DELIVERY, Outcome.DEAD), received_at=noon, error="killed")]
    assert "whole deliveries" in console.get("/failures").text
    since = utc_now()
    with node.engine.begin() as conn:
        assert count_runs(ids, WHOLE_DELIVERY, since)(conn).left == 1
        conn.execute(update(runs).where(runs.c.delivery_id.in_(ids)).values(finished_at=since + timedelta(seconds=1)))
        assert count_runs(ids, WHOLE_DELIVERY, since)(conn).failed == 1


def test_who_may_only_look_is_shown_no_button_that_is_refused_but_which_role_it_takes(node, console_of, monkeypatch):
    (node.folder / "loyalty.py").write_text(PLUGIN)
    monkeypatch.setenv("HANDLER_MODULES", "handlers,loyalty")
    monkeypatch.syspath_prepend(str(node.folder))
    fill(node, failures=2)
    node.environment["DASHBOARD_USERS"] = "olga look olgas-long-secret\nabel act abels-long-secret"
    for name, secret, has_forms in (("olga", "olgas-long-secret", False), ("abel", "abels-long-secret", True)):
        console = console_of(node)
        console.post("/login", data={"name": name, "secret": secret, "next": "/"})
        page = console.get("/failures").text
        urls = [f"/failures/{keys_of(page)[0]}", f"/failures/pushes/{keys_of(page, 'failures/pushes')[0]}"]
        for url in ("/", "/live", "/authorizations", *urls):
            page = console.get(url).text
            assert bool(re.search(r'action="[^"]+/(run|send|resolve|try)"', page)) is has_forms, url
            assert ("it takes the role act" in page) is not has_forms, url


def test_a_refusal_is_a_page_from_which_one_gets_on(node, console_of):
    fill(node, failures=1)
    node.environment["DASHBOARD_USERS"] = "olga look olgas-long-secret"
    console = console_of(node)
    console.headers["accept"] = "text/html"
    answer = console.post("/alerts/x/resolve")
    assert answer.status_code == 401
    assert "www-authenticate" not in answer.headers  # a browser would ask for a password in a window of its own
    assert 'href="/login"' in answer.text
    console.post("/login", data={"name": "olga", "secret": "olgas-long-secret", "next": "/"})
    answer = console.post("/alerts/x/resolve")
    assert answer.status_code == 403
    assert 'href="/failures"' in answer.text
