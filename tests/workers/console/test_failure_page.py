"""Failures: one row a cause, and one click that runs them again or sends them again."""

import re

import pytest

from tests.faults.documents import HOSTILE
from tests.workers.console.conftest import csrf_token
from tests.workers.console.past import fill
from workers.ledger.dead_runs import frames_of, place_of

PLUGIN = '''
from handlers import Context, on
from ingest.events import SessionComplete

@on(SessionComplete)
def add_points(event: SessionComplete, ctx: Context) -> None:
    """Do nothing."""
'''


@pytest.fixture
def filled(any_node, console_of, monkeypatch):
    (any_node.folder / "loyalty.py").write_text(PLUGIN)
    monkeypatch.setenv("HANDLER_MODULES", "handlers,loyalty")
    monkeypatch.syspath_prepend(str(any_node.folder))
    fill(any_node, failures=133)
    return any_node, console_of(any_node)


def keys_of(page, path="failures"):
    return re.findall(rf'href="/{path}/([0-9a-f]{{16}})"', page)


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
    assert "Runs that are tried again: 133." in answer.text
    assert len(keys_of(answer.text)) == 1
    assert len(node.rows("dead")) == 1
    (act,) = node.rows("audit")
    assert (act["act"], act["count"]) == ("replayed", 133)
    assert act["subject"] == "add_points KeyError loyalty.py:41 in add_points"
    assert console.get(f"/failures/{key}").status_code == 404


def test_without_the_token_of_the_form_nothing_runs(filled):
    node, console = filled
    key = keys_of(console.get("/failures").text)[0]
    assert console.post(f"/failures/{key}/run").status_code == 403
    assert len(node.rows("dead")) == 134


def test_dead_pushes_are_sent_again(filled):
    node, console = filled
    (key,) = keys_of(console.get("/failures").text, "failures/pushes")
    assert "Send again (1)" in console.get(f"/failures/pushes/{key}").text
    console.post(f"/failures/pushes/{key}/send", data={"csrf_token": csrf_token(console)})
    assert [push["state"] for push in node.rows("pushes", "--session", "refused")] == ["waiting"]
    assert [(act["act"], act["count"]) for act in node.rows("audit")] == [("resent", 1)]


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


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_what_comes_from_outside_is_text_on_the_pages_of_failures(node, console_of, text):
    fill(node, user=f"u{text}", text=text, failures=1)
    console = console_of(node)
    page = console.get("/failures").text
    urls = [f"/failures/{key}" for key in keys_of(page)]
    urls += [f"/failures/pushes/{key}" for key in keys_of(page, "failures/pushes")]
    assert len(urls) >= 2
    for url in ("/failures", *urls):
        answer = console.get(url)
        assert answer.status_code == 200
        assert "<script>alert" not in answer.text
        assert "<img" not in answer.text
