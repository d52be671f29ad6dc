"""What is redacted never reaches the disk, and is the delivery that it was."""

import asyncio
import json
from datetime import UTC, datetime

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
