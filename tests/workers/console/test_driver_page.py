"""Why that driver got no warning is answered by typing their address, on one page, in plain words."""

import html
import re
import sqlite3
import time

import pytest
from sqlalchemy.exc import OperationalError

from handlers.kit.channel import Device
from ingest.inbox.downtime import Downtime
from ingest.wire.timestamps import utc_now
from tests.workers.console.conftest import reveal
from tests.workers.console.past import Past, fill
from workers.console.page_template import masked
from workers.ledger import audit_log, devices, downtimes
from workers.ledger.database.transaction import RETRY_FOR
from workers.ledger.states import Outcome, PushState

SENTENCES = [
    "the driver was warned 10 min before it began. The session ended before the fee began.",
    "not warned, because Plugsurfing's notice came only 29.0 s before the fee began, and was handled too late. The",
    "not warned, because the warning failed: UNREGISTERED: the app was removed. The session went on, so the fee",
    "No fee notice came for this session, so there was nothing to warn of.",
]


def text_of(answer):
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]*>", "", answer.text)))


def test_typing_an_address_in_any_case_answers_why_there_was_no_warning(any_node, console_of):
    fill(any_node)
    answer = console_of(any_node).get("/find?q=DANA@Example.com")
    assert answer.url.path == "/drivers/dana@example.com"
    for sentence in SENTENCES:
        assert sentence in text_of(answer)


@pytest.mark.parametrize("typed", ["MÜLLER@Example.com", "müller@example.com", "Mül"])
@pytest.mark.parametrize("known", ["MÜLLER@example.com", "müller@example.com"])
def test_a_driver_is_found_in_any_case_of_letters_beyond_ascii(any_node, event, console_of, known, typed):
    past, console = Past(any_node, utc_now()), console_of(any_node)
    past.started("of-them", known)
    past.started("of-another", "mueller@example.com")
    found = text_of(console.get(f"/find?q={typed}"))
    assert "of-them" in found if "@" in typed else masked(known) in found
    (session,) = any_node.rows("sessions", "--user", known.upper())
    assert session["user_id"] == known


def test_a_driver_with_a_device_alone_is_found_in_any_case(any_node, console_of):
    with any_node.engine.begin() as conn:
        devices.upsert(conn, "Anna@example.com", Device("token"), utc_now())
    assert console_of(any_node).get("/find?q=anna@example.com").url.path == "/drivers/Anna@example.com"


@pytest.mark.parametrize(
    ("recorded", "shown"),
    [
        ("the driver has no device", "no phone is registered for the driver."),
        ("the provider no longer knows the device", "the driver's phone is no longer registered: the app was removed"),
    ],
)
def test_a_phone_that_is_missing_is_named_as_one_in_plain_words(node, console, noon, recorded, shown):
    past = Past(node, noon)
    past.started("phoneless", "dana@example.com")
    notice = past.notice("phoneless", 30, 40)
    past.push(notice, "phoneless", "dana@example.com", 30, state=PushState.MOOT, error=recorded)
    text = text_of(console.get("/drivers/dana@example.com"))
    assert re.search(rf"Blocking fee from [-0-9 :]+: the driver was not warned, because {shown}", text)


def test_the_command_gives_the_same_sentences(any_node):
    fill(any_node)
    printed = any_node.run("driver", "Dana@example.com").stdout
    for sentence in SENTENCES:
        assert sentence in printed


def test_many_notices_of_one_session_do_not_hide_that_of_another(any_node, noon):
    past = Past(any_node, noon)
    for session, minutes in (("old", [30]), ("new", [100, 101, 102])):
        past.started(session, "dana", minutes[0] - 20)
        for minute in minutes:
            past.notice(session, minute, minute + 10, Outcome.MOOT, "too late")
    printed = any_node.run("driver", "dana", "--limit", "2").stdout
    assert "No fee notice came" not in printed


def test_one_json_object_has_everything_known_of_a_driver(any_node):
    fill(any_node)
    (found,) = any_node.rows("driver", "dana@example.com")
    assert list(found) == ["user_id", "sessions", "devices", "warnings", "pushes", "cdrs", "authorizations"]
    counts = {name: len(rows) for name, rows in found.items() if name != "user_id"}
    assert counts == {"sessions": 4, "devices": 1, "warnings": 3, "pushes": 2, "cdrs": 3, "authorizations": 2}


def test_a_downtime_while_the_session_ran_is_named_as_a_cause(node, console):
    past = fill(node)
    with node.engine.begin() as conn:
        downtimes.import_new(conn, [Downtime(past.at(210), past.at(220), "an-inbox")], past.at(230))
    text = text_of(console.get("/drivers/dana@example.com"))
    assert "But nothing could be received from" in text
    assert "while it ran: a notice that came then is lost." in text


def test_each_look_at_a_driver_is_recorded_without_their_id(any_node, console_of):
    fill(any_node, failures=0)
    console = console_of(any_node)
    console.get("/find", params={"q": "Dana@example.com"}, follow_redirects=False)  # who typed it knows it
    assert any_node.rows("audit") == []
    assert "It is recorded who opens this page" in console.get("/drivers/dana@example.com").text
    any_node.run("driver", "dana@example.com")
    subjects = [(act["act"], act["subject"]) for act in any_node.rows("audit")]
    assert subjects == [("user_viewed", "driver"), ("user_viewed", "/drivers/…")]


def test_a_driver_in_the_api_is_recorded_like_their_page(node, console):
    fill(node, failures=0)
    console.get("/api/drivers/dana@example.com")
    assert [(act["act"], act["subject"]) for act in node.rows("audit")] == [("user_viewed", "/drivers/…")]


@pytest.mark.parametrize("page", ["/drivers/dana@example.com", "/api/drivers/dana@example.com"])
def test_a_driver_is_not_shown_for_as_long_as_it_cannot_be_recorded(node, console, monkeypatch, page):
    def fail(*_arguments):
        raise OperationalError("", {}, sqlite3.OperationalError("database is locked"), connection_invalidated=True)

    fill(node, failures=0)
    monkeypatch.setattr(audit_log, "record", fail)
    began_at = time.monotonic()
    answer = console.get(page)
    assert (answer.status_code, "cannot be recorded, so it is not shown" in answer.text) == (503, True)
    assert time.monotonic() - began_at < RETRY_FOR


def test_an_unknown_driver_is_a_404_with_a_sentence(node, console):
    answer = console.get("/drivers/nobody@example.com")
    assert (answer.status_code, "knows no driver" in answer.text) == (404, True)
    assert "no driver 'nobody'" in node.run("driver", "nobody", code=1).stderr


@pytest.mark.parametrize(
    ("typed", "path"),
    [
        ("warned", "/sessions/warned"),
        ("Dana@example.com", "/drivers/dana@example.com"),
        ("r-1", "/cdrs"),
    ],
)
def test_one_hit_leads_to_its_page(any_node, console_of, typed, path):
    fill(any_node, failures=0)
    answer = console_of(any_node).get("/find", params={"q": typed}, follow_redirects=False)
    assert (answer.status_code, answer.headers["location"].partition("?")[0]) == (303, path.replace("@", "%40"))


def test_the_beginning_of_a_drivers_id_finds_them_masked_until_a_click_that_is_recorded(any_node, console_of):
    fill(any_node, failures=0)
    console = console_of(any_node)
    found = console.get("/find", params={"q": "dana@"})
    assert "dan…" in found.text
    assert "dana@example.com" not in found.text
    reveal(console, "/find?q=dana%40")
    assert (
        console.get("/find", params={"q": "dana@"}, follow_redirects=False).headers["location"].startswith("/drivers/")
    )


def test_ids_are_found_by_their_beginning_and_keys_in_any_spelling(any_node, console_of):
    fill(any_node, failures=3)
    console, (delivery, *_) = console_of(any_node), any_node.rows("deliveries", "--state", "dead")
    answer = console.get("/find", params={"q": delivery["id"][:9]}, follow_redirects=False)
    assert answer.headers["location"] == f"/deliveries/{delivery['id']}"
    answer = console.get("/find", params={"q": "04:A1:B2"}, follow_redirects=False)
    assert answer.headers["location"].startswith("/authorizations?key=")
    assert "Nothing in the ledger" in console.get("/find", params={"q": "%"}).text
