import json
import sqlite3
import threading
import time
from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ingest.inbox.rows import open_for_inserts, row_of, upsert_rows
from ingest.inbox.schema import open_inbox_file
from ingest.queue.batch import LONGEST_DESCRIPTION, Batch, Delivery, description, encode_batch, timestamp_or_none
from ingest.relay import outbox as outbox_module
from ingest.relay.outbox import InFlightBatch, Outbox
from ingest.wire.envelope import HEADERS_KEPT, Kind, verify_request
from ingest.wire.signature import SigningKeys, sign


@pytest.fixture
def outbox(inbox_file):
    opened = Outbox(inbox_file.path)
    yield opened
    opened.close()


@pytest.fixture
def in_payload(outbox):
    """Return the batch that a worker reads of the rows that wait for a queue."""

    def read(queue="sessions"):
        outbox.assign([("in_payload", outbox.next_batch(queue, 10, 1000))])
        packed = outbox.payload("in_payload").deliveries
        text = encode_batch("b", inbox=outbox.inbox_id, queue=queue, deliveries=packed, isolated=False, poison=False)
        outbox.release(["in_payload"])
        return Batch.from_json(text).deliveries

    return read


def test_waiting_rows_are_selected_oldest_first(inbox_file, outbox):
    (first, second) = inbox_file.insert(2)
    rows = outbox.next_batch("sessions", 10, 1000)
    assert inbox_file.ids(rows) == [first, second]
    assert not rows.is_full


def test_a_payload_has_everything_that_was_kept(inbox_file, in_payload):
    received_at = datetime(2025, 6, 12, 10, 56, 51, 123457, tzinfo=UTC)
    signed_at = datetime(9999, 12, 31, tzinfo=UTC)
    (first, second) = inbox_file.insert(
        2, body=b"\x00\xff", received_at=received_at.timestamp(), signed_at=signed_at.timestamp()
    )
    delivery, other = in_payload()
    assert (delivery.id, other.id) == (first, second)
    assert (delivery.received_at, delivery.signed_at) == (received_at, signed_at)
    assert (delivery.kind, delivery.event, delivery.session_id) == ("events", "SESSION_STARTED", "L60XMxWy0oP")
    assert (delivery.signed_with, delivery.headers) == ("current", {"accept": "*/*"})
    assert (delivery.body, delivery.receipts, delivery.inbox) == (b"\x00\xff", 1, inbox_file.inbox_id)


def test_a_duplicate_notice_has_the_number_of_receipts(inbox_file, in_payload):
    (known,) = inbox_file.insert()
    inbox_file.receive_again(known)
    inbox_file.receive_again(known)
    (notice,) = in_payload("other")
    assert (notice.id, notice.body, notice.receipts) == (known, None, 3)


def test_a_signing_time_beyond_the_calendar_is_no_obstacle(inbox_file, in_payload):
    inbox_file.insert(signed_at=1e18)
    assert in_payload()[0].signed_at is None


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
def test_any_event_name_survives(inbox_file, outbox, text):
    inbox_file.insert(event=text or None)
    rows = outbox.next_batch("sessions", 10, 1000)
    outbox.assign([("b", rows)])
    packed = outbox.payload("b")
    batch = encode_batch("b", inbox="i", queue="sessions", deliveries=packed.deliveries, isolated=False, poison=False)
    assert [each.event for each in Batch.from_json(batch).deliveries] == [text or None]
    assert packed.names == ((text or "events", False),)
    outbox.settle(["b"])


EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=20) | st.text(min_size=195, max_size=205)
ANY_TEXT |= st.sampled_from([" a ", "null", "1.0", '"', "\\u0000", "{}", "'"])
BODIES = st.binary(max_size=40) | st.builds(
    lambda name, session_id: json.dumps({"event": name, "payload": {"sessionId": session_id}}).encode(),
    st.sampled_from(["SESSION_STARTED", "SESSION_FEE_INCURRING"]) | ANY_TEXT,
    ANY_TEXT | st.integers() | st.floats() | st.none(),
)
MOMENTS = st.datetimes().map(lambda at: at.isoformat().encode()) | st.integers(-(10**15), 10**15).map(b"%d".__mod__)
HEADERS = st.lists(
    st.tuples(st.sampled_from(sorted(name.encode() for name in HEADERS_KEPT)), st.binary(max_size=30))
    | st.tuples(st.just(b"x-hmac-sha512-signedat"), MOMENTS),
    max_size=4,
)


@st.composite
def envelopes(draw):
    """Any request that can be kept."""
    body = draw(BODIES)
    headers = [(b"x-hmac-sha512-signature", sign(body, b"key").encode()), *draw(HEADERS)]
    received_at = draw(st.integers(0, 4 * 10**15).map(lambda micros: EPOCH + timedelta(microseconds=micros)))
    kind = draw(st.sampled_from(Kind))
    return verify_request(kind, headers, body, SigningKeys(b"key"), signature_required=True, received_at=received_at)


@given(st.lists(envelopes(), min_size=1, max_size=8, unique_by=lambda envelope: envelope.id), st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_can_be_kept_reaches_a_worker_unchanged(inbox_file, outbox, kept, data):
    rows = {envelope.id: row_of(envelope) for envelope in kept}
    again = data.draw(st.lists(st.sampled_from(sorted(rows)), max_size=4))
    file = open_for_inserts(inbox_file.path)
    file.executescript("PRAGMA synchronous = OFF; DELETE FROM deliveries; DELETE FROM seen; BEGIN IMMEDIATE")
    upsert_rows(file, [*rows.values(), *(rows[id_] for id_ in again)])
    file.execute("COMMIT")
    file.close()

    receipts = Counter([*rows, *again])
    travelled = {}
    for queue in {row.queue for row in rows.values()} | {"other"}:
        waiting = outbox.next_batch(queue, 100, 10_000_000)
        if not waiting.seqs:
            continue
        outbox.assign([(queue, waiting)])
        packed = outbox.payload(queue)
        text = encode_batch(
            "b", inbox=outbox.inbox_id, queue=queue, deliveries=packed.deliveries, isolated=False, poison=False
        )
        batch = Batch.from_json(text)
        assert packed.names == tuple((each.event or each.kind, each.body is None) for each in batch.deliveries)
        assert len(description(packed.names, packed.session_id)) <= LONGEST_DESCRIPTION
        assert description(packed.names, packed.session_id).isprintable()
        travelled |= {(each.id, each.body is None): (queue, each) for each in batch.deliveries}

    expected = {}
    for envelope in kept:
        row = rows[envelope.id]
        delivery = Delivery(
            envelope.id,
            envelope.kind,
            row.event,
            row.session_id,
            envelope.received_at,
            "current",
            timestamp_or_none(row.signed_at),
            envelope.headers,
            envelope.body,
            receipts[envelope.id],
            outbox.inbox_id,
        )
        expected[envelope.id, False] = row.queue, delivery
    assert {key: found for key, found in travelled.items() if not key[1]} == expected
    notices = {id_: found.receipts for (id_, is_notice), (_, found) in travelled.items() if is_notice}
    assert notices == {id_: receipts[id_] for id_ in again}


def test_times_have_microseconds(inbox_file, in_payload):
    micros = [1_750_000_000_000_000 + 37 * number for number in range(10)]
    for each in micros:
        inbox_file.insert(received_at=datetime.fromtimestamp(each / 1e6, UTC).timestamp())
    times = [delivery.received_at for delivery in in_payload()]
    assert times == [datetime.fromtimestamp(each / 1e6, UTC) for each in micros]


def test_queues_are_separate(inbox_file, outbox):
    (urgent,) = inbox_file.insert(queue="urgent")
    inbox_file.insert(queue="cdrs")
    assert inbox_file.ids(outbox.next_batch("urgent", 10, 1000)) == [urgent]
    assert inbox_file.ids(outbox.next_batch("sessions", 10, 1000)) == []


def test_a_slice_is_bounded_in_count(inbox_file, outbox):
    first, second, _ = inbox_file.insert(3)
    rows = outbox.next_batch("sessions", 2, 1000)
    assert (inbox_file.ids(rows), rows.is_full) == ([first, second], True)


def test_a_slice_is_bounded_in_bytes(inbox_file, outbox):
    first, second, _ = inbox_file.insert(3, body=b"x" * 40)
    rows = outbox.next_batch("sessions", 10, 100)
    assert (inbox_file.ids(rows), rows.is_full, rows.bytes) == ([first, second], True, 80)


def test_a_delivery_over_the_limit_travels_alone(inbox_file, outbox):
    first, _ = inbox_file.insert(2, body=b"x" * 400)
    rows = outbox.next_batch("sessions", 10, 100)
    assert (inbox_file.ids(rows), rows.is_full) == ([first], True)


def test_assigned_rows_are_in_flight(inbox_file, outbox):
    inbox_file.insert(2, body=b"four")
    inbox_file.insert(1, queue="urgent")
    rows = outbox.next_batch("sessions", 10, 1000)
    outbox.assign([("batch", rows)])
    assert inbox_file.ids(outbox.next_batch("sessions", 10, 1000)) == []
    (batch,) = outbox.in_flight()
    assert batch == InFlightBatch("batch", "sessions", batch.offered_at, 2, 8, 0)
    assert datetime.now(UTC) - batch.offered_at < timedelta(seconds=10)
    assert outbox.rows_of("batch") == rows
    assert outbox.waiting_count() == 1


def test_settled_rows_are_deleted_and_still_known(inbox_file, outbox):
    (known, waiting) = inbox_file.insert(2, received_at=1_000_000_000)
    outbox.assign([("batch", outbox.next_batch("sessions", 1, 1000))])
    assert outbox.settle(["batch", "unknown"]) == 1
    assert outbox.settle(["batch"]) == 0
    assert inbox_file.count() == 1
    assert inbox_file.remembers(known)
    assert not inbox_file.remembers(waiting)
    # A request that is reverified late was received long ago, and must not be pruned at once.
    outbox.prune_seen(datetime.now(UTC) - timedelta(minutes=1))
    assert inbox_file.remembers(known)


def test_many_rows_are_settled_in_short_transactions(inbox_file, outbox, monkeypatch):
    monkeypatch.setattr(outbox_module, "MAX_REMEMBERED", 2)
    ids = inbox_file.insert(5)
    inbox_file.receive_again(ids[1])
    outbox.assign([("batch", outbox.next_batch("sessions", 10, 1000))])
    assert outbox.settle(["batch"]) == 5
    assert all(map(inbox_file.remembers, ids))
    assert inbox_file.count() == inbox_file.count("body IS NULL") == 1


def test_a_delivery_that_was_remembered_and_not_deleted_is_still_unsettled(inbox_file, outbox, monkeypatch):
    ids = inbox_file.insert(2)
    outbox.assign([("batch", outbox.next_batch("sessions", 10, 1000))])
    monkeypatch.setattr(outbox_module, "SETTLE", "SELECT * FROM nothing")
    with pytest.raises(sqlite3.OperationalError):
        outbox.settle(["batch"])
    assert all(map(inbox_file.remembers, ids))
    assert outbox.settled() == []
    assert {each.delivery.id for each in outbox.unsettled()} == set(ids)
    assert {each.delivery.receipts for each in outbox.unsettled()} == {1}


def test_an_unknown_batch_is_empty(outbox):
    assert outbox.rows_of("unknown").seqs == ()


def test_a_batch_is_split_in_one_transaction(inbox_file, outbox):
    ids = inbox_file.insert(5)
    rows = outbox.next_batch("sessions", 10, 1000)
    outbox.assign([("whole", rows)])
    first, second = outbox.rows_of("whole").split()
    outbox.split("whole", [("first", first), ("second", second)], deaths=0)
    assert inbox_file.ids(outbox.rows_of("first")) == ids[:2]
    assert inbox_file.ids(outbox.rows_of("second")) == ids[2:]
    assert outbox.rows_of("whole").seqs == ()


def test_deaths_are_stored(inbox_file, outbox):
    inbox_file.insert()
    rows = outbox.next_batch("sessions", 10, 1000)
    outbox.assign([("first", rows)])
    outbox.split("first", [("second", rows)], deaths=2)
    assert [each.deaths for each in outbox.in_flight()] == [2]


def test_released_rows_wait_again_in_their_old_order(inbox_file, outbox):
    ids = inbox_file.insert(2)
    outbox.assign([("batch", outbox.next_batch("sessions", 1, 1000))])
    outbox.release(["batch"])
    assert inbox_file.ids(outbox.next_batch("sessions", 10, 1000)) == ids
    assert outbox.in_flight() == []


def test_a_released_notice_is_dropped_if_another_waits(inbox_file, outbox, in_payload):
    (known,) = inbox_file.insert()
    inbox_file.receive_again(known)
    outbox.assign([("batch", outbox.next_batch("other", 10, 1000))])
    inbox_file.receive_again(known)
    outbox.release(["batch"])
    (notice,) = in_payload("other")
    assert notice.receipts == 3


def test_a_failed_split_leaves_everything_as_it_was(inbox_file, outbox):
    inbox_file.insert()
    rows = outbox.next_batch("sessions", 10, 1000)
    outbox.assign([("whole", rows)])
    with pytest.raises(sqlite3.ProgrammingError):
        outbox.split("whole", [("part", rows), (object(), rows)], deaths=1)
    assert [(each.batch_id, each.deaths) for each in outbox.in_flight()] == [("whole", 0)]
    outbox.split("whole", [("part", rows)], deaths=1)


def test_waiting_rows_are_counted_and_the_oldest_has_a_time(inbox_file, outbox):
    assert (outbox.waiting_count(), outbox.oldest_waiting_at("sessions")) == (0, None)
    inbox_file.insert(2, received_at=1_750_000_000)
    inbox_file.insert(1)
    at = datetime.fromtimestamp(1_750_000_000, UTC)
    assert (outbox.waiting_count(), outbox.oldest_waiting_at("sessions")) == (3, at)


def test_unsettled_deliveries_can_be_listed_and_found(inbox_file, outbox):
    first, second = inbox_file.insert(2)
    inbox_file.receive_again(first)
    outbox.assign([("batch", outbox.next_batch("sessions", 1, 1000))])
    listed = outbox.unsettled()
    assert [(each.delivery.id, each.queue, each.batch_id) for each in listed] == [
        (second, "sessions", None),
        (first, "sessions", "batch"),
    ]
    assert [each.delivery.receipts for each in outbox.unsettled(first)] == [2]
    assert outbox.unsettled("unknown") == []
    assert len(outbox.unsettled(limit=1)) == 1


def test_old_ids_are_pruned_in_small_steps(inbox_file, outbox):
    old = inbox_file.remember(5, at=1_000_000_000)
    (new,) = inbox_file.remember()
    after = ""
    steps = 0
    while after is not None:
        after = outbox.prune_seen(datetime.now(UTC) - timedelta(days=8), after=after, limit=2)
        steps += 1
    assert steps == 3
    assert not any(inbox_file.remembers(each) for each in old)
    assert inbox_file.remembers(new)


def test_the_data_version_changes_by_commits_of_others_only(inbox_file, outbox):
    before = outbox.data_version()
    inbox_file.insert()
    after = outbox.data_version()
    assert after != before
    outbox.assign([("batch", outbox.next_batch("sessions", 1, 1000))])
    assert outbox.data_version() == after


def test_a_write_waits_while_the_inbox_writes(inbox_file, outbox):
    inbox_file.insert()
    rows = outbox.next_batch("sessions", 1, 1000)
    writer = open_inbox_file(inbox_file.path)
    writer.execute("BEGIN IMMEDIATE")
    assigning = threading.Thread(target=outbox.assign, args=([("batch", rows)],))
    assigning.start()
    time.sleep(0.02)
    assert assigning.is_alive()
    writer.execute("COMMIT")
    assigning.join(10)
    writer.close()
    assert len(outbox.in_flight()) == 1


def test_a_write_waits_for_the_lock_only_so_long(inbox_file, outbox, monkeypatch):
    monkeypatch.setattr("ingest.inbox.write_lock.LOCK_TIMEOUT", 0.01)
    writer = open_inbox_file(inbox_file.path)
    writer.execute("BEGIN IMMEDIATE")
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        outbox.settle(["batch"])
    writer.execute("COMMIT")
    writer.close()
    assert outbox.settle(["batch"]) == 0
