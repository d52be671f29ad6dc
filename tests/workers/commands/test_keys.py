import base64
from datetime import UTC, datetime, timedelta

import pytest

from ingest.wire.signature import sign
from workers.ledger.states import Outcome

DONE = ("session_record", Outcome.DONE)
NOON = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)
NEXT = "the-next-key-of-them"


def test_the_key_that_matched_last_is_named(any_node, event, noon):
    any_node.settle(event("SESSION_STARTED"), DONE, received_at=noon)
    any_node.settle(event("SESSION_STOPPED"), DONE, received_at=noon + timedelta(hours=1), signed_with="next")

    rows = {row["key"]: row for row in any_node.rows("keys", PLUGSURFING_HMAC_NEXT=NEXT)}

    assert rows["current"] == {
        "key": "current",
        "configured": True,
        "deliveries": 1,
        "first_matched_at": "2026-05-04T12:00:00Z",
        "last_matched_at": "2026-05-04T12:00:00Z",
        "can_be_retired": True,
    }
    assert rows["next"]["last_matched_at"] == "2026-05-04T13:00:00Z"
    assert rows["authorization"]["configured"] is False
    assert "NEXT matched last" in any_node.run("keys", PLUGSURFING_HMAC_NEXT=NEXT).stdout


@pytest.mark.parametrize(
    ("signed_with", "can_go", "words"),
    [
        ([], False, "No key has matched anything yet"),
        (["current"], False, "cannot be retired"),
        (["next", "current"], False, "cannot be retired"),
        (["current", "next", "next"], True, "NEXT has matched 2 since"),
        (["next"], True, "nothing at all"),
        (["current", "next", "current", "next"], True, "NEXT has matched 1 since"),
    ],
)
def test_current_can_be_retired_once_only_next_matches(node, event, signed_with, can_go, words):
    for number, key in enumerate(signed_with):
        at = NOON + timedelta(minutes=number)
        node.settle(event("SESSION_STARTED", f"s{number}"), DONE, received_at=at, signed_with=key)

    rows = {row["key"]: row for row in node.rows("keys", PLUGSURFING_HMAC_NEXT=NEXT)}

    assert rows["current"]["can_be_retired"] is can_go
    assert words in node.run("keys", PLUGSURFING_HMAC_NEXT=NEXT).stdout


def test_what_waits_in_the_inbox_counts_too(node, event, noon):
    node.settle(event("SESSION_STARTED"), DONE, signed_with="next", received_at=noon)
    node.keep(event("SESSION_STOPPED"), received_at=noon + timedelta(minutes=1))

    rows = {row["key"]: row for row in node.rows("keys", PLUGSURFING_HMAC_NEXT=NEXT)}

    assert rows["current"]["deliveries"] == 1
    assert rows["current"]["can_be_retired"] is False


def test_without_a_next_key_there_is_nothing_to_retire(node, event):
    node.settle(event("SESSION_STARTED"), DONE)

    assert "nothing to retire" in node.run("keys").stdout
    assert {row["key"]: row["can_be_retired"] for row in node.rows("keys")}["current"] is False


@pytest.mark.parametrize("encoding", ["utf8", "base64", "hex"])
def test_a_captured_request_identifies_the_key_and_its_encoding(node, event, encoding):
    text = "00112233445566778899aabbccddeeff"  # a key in each of the encodings
    key = {"utf8": text.encode(), "base64": base64.b64decode(text), "hex": bytes.fromhex(text)}[encoding]
    body = event("SESSION_STARTED")
    (node.folder / "body").write_bytes(body)

    rows = node.rows("keys", "try", "--body", "body", "--signature", sign(body, key), PLUGSURFING_HMAC_NEXT=text)

    assert [(row["key"], row["encoding"]) for row in rows if row["matches"]] == [("next", encoding)]
    assert len(rows) == 6
    assert [row["matches"] for row in rows if row["key"] == "current" and row["encoding"] == "hex"] == [None]


def test_a_wrong_encoding_setting_does_not_stop_the_search_for_the_right_one(node, event):
    body = event("SESSION_STARTED")
    signature = sign(body, b"not hexadecimal, for sure")

    found = node.process(
        *("keys", "try", "--body", "-", "--signature", signature),
        stdin=body,
        PLUGSURFING_HMAC_CURRENT="not hexadecimal, for sure",
        PLUGSURFING_HMAC_ENCODING="hex",
    )

    assert found.returncode == 0
    assert b"for sure" not in found.stdout + found.stderr


def test_no_match_is_a_failure_and_an_added_line_end_is_detected(node, event):
    body = event("SESSION_STARTED")
    signature = sign(body, b"the-current-key-in-use")
    arguments = ["keys", "try", "--body", "body", "--signature"]

    (node.folder / "body").write_bytes(body + b"\n")
    assert "line end" in node.run(*arguments, signature, code=1).stderr
    (node.folder / "body").write_bytes(body + b" ")
    assert "No configured key" in node.run(*arguments, signature, code=1).stderr
    assert node.run(*arguments, signature, code=2, PLUGSURFING_HMAC_CURRENT="").stderr


def test_without_any_key_there_is_nothing_to_try(node):
    (node.folder / "body").write_bytes(b"{}")
    del node.environment["PLUGSURFING_HMAC_CURRENT"]

    assert "no key to try" in node.run("keys", "try", "--body", "body", "--signature", "x", code=2).stderr
