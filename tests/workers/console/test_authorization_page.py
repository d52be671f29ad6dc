"""Trying a charging key: the answer of the policies in force, which is recorded nowhere."""

from ingest.wire.timestamps import utc_now
from tests.workers.console.conftest import csrf_token
from workers.ledger import charging_keys
from workers.ledger.charging_keys import KeyRow
from workers.ledger.tables.authorization_tables import drive_readings


def test_a_key_is_tried_against_the_policies_and_not_recorded(node, console):
    form = console.get("/authorizations").text
    assert 'action="/authorizations/try"' in form
    answer = console.post("/authorizations/try", data={"csrf_token": csrf_token(console), "key": "04:A1:B2"})
    assert answer.status_code == 200
    assert "it is not recorded as a request" in answer.text
    assert "<strong>ALLOWED</strong>" in answer.text
    assert "<dt>took</dt>" in answer.text
    assert node.rows("authorizations") == []
    assert node.rows("keys", "charging") == []


def test_the_policy_that_decides_is_named_with_its_reason(node, console_of, monkeypatch):
    monkeypatch.setenv("AUTHORIZE_KEY_LIST", "true")
    now = utc_now()
    with node.engine.begin() as conn:
        read = {"generation": 1, "read_at": now, "due_at": now, "rows_read": 1}
        conn.execute(drive_readings.insert().values(subject="charging_keys", **read))
        charging_keys.replace_all(conn, [KeyRow("04a1b2c3", enabled=False)], 1, now)
    console = console_of(node)
    answer = console.post("/authorizations/try", data={"csrf_token": csrf_token(console), "key": "04:A1:B2:C3"})
    assert "<strong>BLOCKED</strong>, by key_list" in answer.text
    assert "the key is disabled" in answer.text


def test_without_a_key_or_the_token_of_the_form_nothing_is_tried(console):
    assert console.post("/authorizations/try", data={"key": "04a1"}).status_code == 403
    answer = console.post("/authorizations/try", data={"csrf_token": csrf_token(console), "key": " "})
    assert (answer.status_code, "Type the id of a charging key" in answer.text) == (400, True)
