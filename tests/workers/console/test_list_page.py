import csv
import html
import io
import json
import re
from contextlib import nullcontext
from datetime import timedelta
from types import SimpleNamespace

import pytest

from tests.workers.console.conftest import reveal
from workers.console import list_export, list_page
from workers.ledger import deliveries
from workers.ledger.states import Outcome
from workers.lists.list_query import ListQuery, Selection
from workers.lists.listing import Listing

find = deliveries.find


@pytest.fixture
def many(any_node, event, noon):
    """Store 120 deliveries of two moments, and return their ids, newest first."""
    ids = {
        any_node.settle(
            event("SESSION_STARTED", f"s{number}", userId="dana@example.com"),
            ("thank", Outcome.DONE),
            received_at=noon + timedelta(seconds=number % 2),
        ): number % 2
        for number in range(120)
    }
    return sorted(ids, key=lambda delivery_id: (-ids[delivery_id], delivery_id))


def pages_of(console, url):
    """Follow the links to the next page, and return the ids on each page."""
    pages = []
    while url:
        answer = console.get(url)
        assert answer.status_code == 200
        links = [part.partition('"')[0] for part in answer.text.split('href="/deliveries/')[1:]]
        pages.append(links)
        _, found, rest = answer.text.partition('rel="next" href="')
        url = f"/deliveries{rest.partition(chr(34))[0].replace('&amp;', '&')}" if found else None
    return pages


def test_pages_by_key_show_each_row_once_in_its_order(any_node, many, console_of):
    pages = pages_of(console_of(any_node), "/deliveries?event=SESSION_STARTED")
    assert [len(page) for page in pages] == [50, 50, 20]
    assert [each for page in pages for each in page] == many


def test_json_and_csv_hold_what_the_command_prints(node, event, console):
    node.settle(event("SESSION_STARTED", userId="u1"), ("thank", Outcome.DONE))
    node.settle(event("SESSION_STOPPED"), ("thank", Outcome.DEAD), error="=cmd()")
    printed = node.rows("deliveries")
    lines = console.get("/deliveries.json").text.splitlines()
    assert [json.loads(line) for line in lines] == printed
    rows = list(csv.DictReader(io.StringIO(console.get("/deliveries.csv?event=SESSION_STOPPED").text)))
    assert [row["id"] for row in rows] == [row["id"] for row in printed if row["event"] == "SESSION_STOPPED"]


@pytest.mark.parametrize("form", ["json", "csv"])
def test_an_export_has_each_row_once_and_reads_few_at_once(any_node, many, console_of, monkeypatch, form):
    monkeypatch.setattr(list_export, "CHUNK", 7)
    read = []
    monkeypatch.setattr(deliveries, "find", lambda *given: read.append(find(*given)) or read[-1])
    text = console_of(any_node).get(f"/deliveries.{form}?event=SESSION_STARTED").text
    rows = csv.DictReader(io.StringIO(text)) if form == "csv" else map(json.loads, text.splitlines())
    assert [row["id"] for row in rows] == many
    assert max(map(len, read)) == 8
    assert console_of(any_node).get(f"/deliveries.{form}?event=SESSION_FAILED").text == ""


def test_rows_of_one_position_are_not_torn_apart(monkeypatch):
    monkeypatch.setattr(list_export, "CHUNK", 2)
    rows = [(at, key) for at, key, times in ((3, "a", 3), (2, "b", 1), (1, "c", 2)) for _ in range(times)]

    def find(_stores, wanted):
        return [row for row in rows if wanted.before is None or row[0] < wanted.before[0]]

    query = ListQuery(name="x", title="X", listing=Listing({}), find=find, position=lambda row: row)
    opener = SimpleNamespace(open=lambda **_: nullcontext())
    assert list(list_export.read_chunks(opener, query, Selection())) == [rows[:4], rows[4:]]


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ("state=lost", "state is one of: kept"),
        ("since=someday", "since is neither ISO 8601"),
        ("before=never", "before is not the position of a row."),
        ("before=2026-01-01T00:00:00~x", "before is not the position of a row."),
    ],
)
def test_a_filter_that_is_not_understood_is_a_400_that_says_what_is(console, query, sentence):
    answer = console.get(f"/deliveries?{query}&user=dana@example.com")
    assert answer.status_code == 400
    assert sentence in answer.text
    assert '<input name="user" value="dana@example.com"' in answer.text  # to be corrected without typing all anew
    export = console.get(f"/deliveries.csv?{query}")
    assert export.status_code == 400
    assert sentence in export.text


@pytest.mark.parametrize("url", ["/deliveries", "/deliveries.json", "/api/deliveries"])
def test_what_a_database_does_not_store_is_looked_up_as_it_is_stored(any_node, event, console_of, url):
    any_node.settle(event("SESSION_STARTED", "a\0b", userId="c\0d"), ("session_record", Outcome.DONE))
    console = console_of(any_node)
    for query in ("session=a%00b", "user=c%00d"):
        assert "SESSION_STARTED" in console.get(f"{url}?{query}").text
    assert console.get(f"{url}?handler=%00&before=2026-01-01T00:00:00Z~%00").status_code == 200


def test_an_export_is_of_all_pages_whichever_it_is_asked_for_on(node, event, console, monkeypatch):
    monkeypatch.setattr(list_page, "PAGE_SIZE", 2)
    for number in range(5):
        node.settle(event("SESSION_STARTED", f"s{number}"))
    (older,) = re.findall('rel="next" href="([^"]+)"', console.get("/deliveries?event=SESSION_STARTED").text)
    (link,) = re.findall('href="([^"]+[.]csv[^"]+)"', console.get(f"/deliveries{html.unescape(older)}").text)
    assert len(console.get(html.unescape(link)).text.splitlines()) == 6


def test_a_session_in_the_list_leads_to_its_page_and_its_driver_is_masked_until_asked_for(node, event, console):
    node.settle(event("SESSION_STARTED", "runs/1", userId="dana@example.com"), ("session_record", Outcome.DONE))
    node.settle(event("SESSION_STOPPED", "over", userId="erik@example.com"), ("session_record", Outcome.DONE))
    page = console.get("/sessions?user=DANA@example.com&status=open")
    assert re.findall('href="(/sessions/[^"]+)"', page.text) == ["/sessions/runs%2F1"]
    assert console.get("/sessions/runs%2F1").status_code == 200
    assert '<span class="masked">dan…</span>' in page.text
    assert "dana@example.com" not in page.text.replace("DANA", "")
    assert "dana@example.com" not in console.get("/sessions.csv").text
    reveal(console, "/sessions")
    assert 'href="/drivers/dana%40example.com"' in console.get("/sessions").text
    assert [row["act"] for row in node.rows("audit")] == ["user_viewed"]
    assert "status is one of: open, WAITING_TO_START, STARTED" in console.get("/sessions?status=COMPLETE").text
