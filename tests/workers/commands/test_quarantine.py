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
def quarantine(node):
    """Insert a request into the quarantine, as `serve` does."""

    def quarantine(body, key=NEW_KEY, path=None):
        headers = [(SIGNATURE_HEADER.encode(), sign(body, key.encode()).encode())]
        refusal = NotAuthentic("The signature was made with neither key.")
        request = from_request(
            Kind.EVENTS, headers, body, refusal, SigningKeys(current=b"the-current-key-in-use"), path=path
        )
        settings = load_settings(data_dir=node.folder, quarantine_count=3)
        Quarantine(node.folder / FILE_NAME, settings).add([request])

    return quarantine


def test_refused_requests_are_listed_with_their_reason_and_dropped_ones_counted(node, event, quarantine):
    for number in range(4):
        quarantine(event("SESSION_STARTED", f"s{number}"))

    result = node.run("quarantine")
    rows = node.rows("quarantine")

    assert [row["session_id"] for row in rows] == ["s3", "s2", "s1"]
    assert "neither key" in result.stdout
    assert "Dropped so far, because the quarantine was full or they were too old: 1." in result.stderr
    assert base64.b64decode(rows[0]["body_base64"]) == event("SESSION_STARTED", "s3")
    assert [row["session_id"] for row in node.rows("quarantine", "--limit", "1")] == ["s3"]


def test_what_passes_with_todays_keys_is_kept(node, event, quarantine):
    quarantine(event("SESSION_STARTED"))
    quarantine(event("SESSION_STOPPED"), key="anybody's key")

    assert "Let in: 0." in node.run("reverify").stdout
    output = node.run("reverify", PLUGSURFING_HMAC_NEXT=NEW_KEY).stdout

    assert "Let in: 1." in output
    assert "Still refused: 1 ×" in output
    assert [(row["event"], row["state"], row["key"]) for row in node.rows("deliveries")] == [
        ("SESSION_STARTED", "kept", "next")
    ]
    assert [row["event"] for row in node.rows("quarantine")] == ["SESSION_STOPPED"]


def test_what_came_to_a_wrong_path_is_let_in_as_the_kind_that_is_named(node, event, quarantine):
    quarantine(event("SESSION_STARTED"), path="/plugsurfing/event")

    refused = node.run("reverify", PLUGSURFING_HMAC_NEXT=NEW_KEY).stdout
    assert "Let in: 0." in refused
    assert "reverify --as events" in refused
    assert [row["path"] for row in node.rows("quarantine")] == ["/plugsurfing/event"]
    assert "Let in: 1." in node.run("reverify", "--as", "events", PLUGSURFING_HMAC_NEXT=NEW_KEY).stdout
    assert [row["kind"] for row in node.rows("deliveries")] == ["events"]
    assert node.rows("quarantine") == []


def test_every_request_that_is_verified_again_is_one_line_of_json(node, event, quarantine):
    quarantine(event("SESSION_STARTED"))
    quarantine(event("SESSION_STOPPED"), key="anybody's key")

    rows = node.rows("reverify", "--since", "1h", PLUGSURFING_HMAC_NEXT=NEW_KEY)

    assert [(row["event"], bool(row["id"]), row["duplicate"]) for row in rows] == [
        ("SESSION_STARTED", True, False),
        ("SESSION_STOPPED", False, None),
    ]
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    assert node.rows("reverify", "--since", tomorrow) == []


def test_nothing_is_verified_without_a_key(node, event, quarantine):
    quarantine(event("SESSION_STARTED"))

    result = node.run("reverify", code=2, PLUGSURFING_HMAC_CURRENT="")

    assert "PLUGSURFING_HMAC_CURRENT" in result.stderr
