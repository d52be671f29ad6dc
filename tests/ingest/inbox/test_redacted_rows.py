"""What is redacted never reaches the disk, and is the delivery that it was."""

import asyncio
import json
from datetime import UTC, datetime

from ingest.config import secret_reload
from ingest.inbox.inbox import Inbox
from ingest.inbox.recovery import recover
from ingest.inbox.rows import row_of
from ingest.inbox.schema import FILE_NAME
from ingest.relay.outbox import Outbox
from ingest.wire.envelope import Envelope, Kind, delivery_id
from tests.conftest import settings_for

BODY = b'{"event": "SESSION_STARTED", "payload": {"sessionId": "s-1", "userEmail": "jane@example.com"}}'
RULES = "/payload/userEmail:mask"


def insert(folder, *bodies, **settings):
    path = folder / FILE_NAME
    inbox = Inbox(path, settings_for(folder, **settings))
    inbox.start()

    async def insert_all():
        now = datetime.now(UTC)
        return [await inbox.insert(Envelope(Kind.EVENTS, each, now, "current", None, {})) for each in bodies]

    kept = asyncio.run(insert_all())
    found = [each.delivery for each in Outbox(path).unsettled()]
    inbox.close()
    return kept, found


def test_the_original_is_nowhere_on_the_disk_and_its_digest_is_the_id(tmp_path):
    kept, (delivery,) = insert(tmp_path, BODY, BODY, redact=RULES)

    id_ = delivery_id(Kind.EVENTS, BODY)
    assert [(each.id, each.duplicate) for each in kept] == [(id_, False), (id_, True)]
    assert (delivery.id, delivery.session_id) == (id_, "s-1")
    assert json.loads(delivery.body)["payload"]["userEmail"] == "***"
    assert not [each for each in tmp_path.iterdir() if b"jane@example.com" in each.read_bytes()]


def test_an_event_at_the_path_of_cdrs_is_redacted_by_the_rules_for_its_name(tmp_path):
    envelope = Envelope(Kind.CDRS, BODY, datetime.now(UTC), "current", None, {})
    rules = settings_for(tmp_path, redact="SESSION_STARTED:/payload/userEmail:mask").redaction

    assert b"jane@example.com" not in row_of(envelope, rules).body


def test_a_redacted_delivery_is_recovered_from_a_damaged_file(tmp_path):
    old, new = tmp_path / "old", tmp_path / "new"
    kept, before = insert(old, BODY, b"{}", redact=RULES)
    new.mkdir()

    assert recover(old / FILE_NAME, new / FILE_NAME) == 2

    after = {each.delivery.id: each.delivery.body for each in Outbox(new / FILE_NAME).unsettled()}
    assert after == {each.id: each.body for each in before}
    assert kept[0].id in after


def test_without_rules_nothing_changes(tmp_path):
    _, (delivery,) = insert(tmp_path, BODY)

    assert (delivery.body, delivery.headers) == (BODY, {})


def test_what_is_nested_too_deeply_to_be_redacted_is_not_kept_and_the_delivery_is(tmp_path):
    deep = BODY[:-1] + b', "jane@example.com": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"

    (kept,), (delivery,) = insert(tmp_path, deep, redact=RULES)

    assert kept.id == delivery.id == delivery_id(Kind.EVENTS, deep)
    assert json.loads(delivery.body) == {"not_kept": "nested too deeply to be redacted", "bytes": len(deep)}
    assert not [each for each in tmp_path.iterdir() if b"jane@example.com" in each.read_bytes()]


def test_without_rules_what_is_nested_too_deeply_is_kept_as_it_came(tmp_path):
    deep = b"[" * 5000 + b"]" * 5000

    _, (delivery,) = insert(tmp_path, deep)

    assert delivery.body == deep


def test_the_key_of_digests_is_read_again_while_the_process_runs(tmp_path, monkeypatch):
    file = tmp_path / "key"
    file.write_text("the first key")
    inbox = Inbox(tmp_path / FILE_NAME, settings_for(tmp_path, redact="/payload/userEmail:hash", redact_key_file=file))
    monkeypatch.setattr(secret_reload, "SETTLE_TIME", 0.0)
    inbox.start()

    async def hashes():
        for number, text in enumerate(("the first key", "the second key", "")):  # an empty one is not used
            file.write_text(text)
            for _ in range(2):  # a file that has just changed may be half-written
                inbox.refresh_redaction()
            body = BODY.replace(b"s-1", f"s-{number}".encode())
            await inbox.insert(Envelope(Kind.EVENTS, body, datetime.now(UTC), "current", None, {}))

    asyncio.run(hashes())
    found = [
        json.loads(each.delivery.body)["payload"]["userEmail"] for each in Outbox(tmp_path / FILE_NAME).unsettled()
    ]
    inbox.close()
    third, second, first = found
    assert third == second != first
