import base64
from datetime import UTC, datetime, timedelta

import pytest

from ingest.config.settings import load_settings
from ingest.errors import NotAuthentic
from ingest.inbox.quarantine import Quarantine
from ingest.inbox.quarantined_request import from_request
from ingest.inbox.schema import FILE_NAME
from ingest.wire.envelope import Kind
from ingest.wire.signature import SIGNATURE_HEADER, SigningKeys, sign

NEW_KEY = "the-next-key-of-them"


@pytest.fixture
def refuse(node):
    """Have the door refuse a request."""

    def refuse(body, key=NEW_KEY):
        headers = [(SIGNATURE_HEADER.encode(), sign(body, key.encode()).encode())]
        refusal = NotAuthentic("The signature was made with neither key.")
        request = from_request(Kind.EVENTS, headers, body, refusal, SigningKeys(current=b"the-current-key-in-use"))
        settings = load_settings(data_dir=node.folder, quarantine_count=3)
        Quarantine(node.folder / FILE_NAME, settings).add([request])

    return refuse


def test_what_was_refused_is_listed_with_its_reason_and_what_went_is_counted(node, event, refuse):
    for number in range(4):
        refuse(event("SESSION_STARTED", f"s{number}"))

    result = node.run("quarantine")
    rows = node.rows("quarantine")

    assert [row["session_id"] for row in rows] == ["s3", "s2", "s1"]
    assert "neither key" in result.stdout
    assert "Dropped so far, because the quarantine was full or they were too old: 1." in result.stderr
    assert base64.b64decode(rows[0]["body_base64"]) == event("SESSION_STARTED", "s3")
    assert [row["session_id"] for row in node.rows("quarantine", "--limit", "1")] == ["s3"]


def test_what_passes_with_todays_keys_is_let_in(node, event, refuse):
    refuse(event("SESSION_STARTED"))
    refuse(event("SESSION_STOPPED"), key="anybody's key")

    assert "Let in: 0." in node.run("reverify").stdout
    said = node.run("reverify", PLUGSURFING_HMAC_NEXT=NEW_KEY).stdout

    assert "Let in: 1." in said
    assert "Still refused: 1 ×" in said
    assert [(row["event"], row["state"], row["key"]) for row in node.rows("deliveries")] == [
        ("SESSION_STARTED", "kept", "next")
    ]
    assert [row["event"] for row in node.rows("quarantine")] == ["SESSION_STOPPED"]


def test_every_request_that_is_verified_again_is_one_line_of_json(node, event, refuse):
    refuse(event("SESSION_STARTED"))
    refuse(event("SESSION_STOPPED"), key="anybody's key")

    rows = node.rows("reverify", "--since", "1h", PLUGSURFING_HMAC_NEXT=NEW_KEY)

    assert [(row["event"], bool(row["id"]), row["duplicate"]) for row in rows] == [
        ("SESSION_STARTED", True, False),
        ("SESSION_STOPPED", False, None),
    ]
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    assert node.rows("reverify", "--since", tomorrow) == []


def test_a_node_that_nothing_ever_came_to_has_an_empty_quarantine(node):
    assert node.rows("quarantine") == []
    assert "Let in: 0." in node.run("reverify").stdout


def test_nothing_is_let_in_without_a_key(node, event, refuse):
    refuse(event("SESSION_STARTED"))

    result = node.run("reverify", code=2, PLUGSURFING_HMAC_CURRENT="")

    assert "PLUGSURFING_HMAC_CURRENT" in result.stderr
