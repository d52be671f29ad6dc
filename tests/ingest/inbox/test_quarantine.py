import itertools
import sqlite3
import threading
from datetime import UTC, datetime, timedelta

import pytest
from structlog.testing import capture_logs

from ingest.config.settings import load_settings
from ingest.errors import InboxUnavailable, NotAuthentic
from ingest.inbox import quarantine as quarantine_module
from ingest.inbox.disk_reserve import DiskReserve
from ingest.inbox.quarantine import Quarantine, QuarantineWriter
from ingest.inbox.quarantined_request import from_request
from ingest.inbox.schema import FILE_NAME, open_inbox_file
from ingest.metrics import Metrics
from ingest.wire.envelope import Kind, headers_to_keep
from ingest.wire.signature import SIGNATURE_HEADER, SigningKeys, sign

KEY = b"the key that was missing"
NUMBERS = itertools.count()


def refused(body=None, key=KEY):
    body = body or b"%d" % next(NUMBERS)
    headers = [(SIGNATURE_HEADER.encode(), sign(body, key).encode())]
    return from_request(Kind.EVENTS, headers, body, NotAuthentic("wrong"), SigningKeys(current=b"the-current-key"))


@pytest.fixture
def path(tmp_path):
    return tmp_path / FILE_NAME


@pytest.fixture
def quarantine(path, settings):
    return Quarantine(path, settings)


def bounded(path, **bounds):
    return Quarantine(path, load_settings(data_dir=path.parent, **bounds))


def bodies(quarantine):
    return [request.body for request in quarantine.list()]


def inbox(path):
    file = open_inbox_file(path)
    rows = file.execute("SELECT body, received_at, signed_with FROM deliveries ORDER BY seq").fetchall()
    file.close()
    return [tuple(row) for row in rows]


def test_requests_are_listed_in_the_order_of_arrival(quarantine):
    requests = [refused() for _ in range(3)]
    quarantine.add(requests[:1])
    quarantine.add(requests[1:])

    found = quarantine.list()
    assert [request.body for request in found] == [request.body for request in requests]
    assert [request.seq for request in found] == [1, 2, 3]
    assert found[0].headers == requests[0].headers
    assert abs(found[0].received_at - requests[0].received_at) < timedelta(milliseconds=1)


def test_a_list_can_start_at_a_time(quarantine):
    quarantine.add([refused()])

    assert len(quarantine.list(datetime.now(UTC) - timedelta(minutes=1))) == 1
    assert quarantine.list(datetime.now(UTC) + timedelta(minutes=1)) == []


def test_the_newest_requests_are_kept_and_the_dropped_ones_counted(path):
    quarantine = bounded(path, quarantine_count=3)
    for number in range(5):
        quarantine.add([refused(b"%d" % number)])
    assert quarantine.add([refused(b"%d" % number) for number in range(5, 10)], dropped=100) == 105

    assert bodies(quarantine) == [b"7", b"8", b"9"]
    assert quarantine.dropped() == 107


def test_bytes_are_bounded_and_one_request_over_the_limit_is_dropped_alone(path):
    most = 2 * refused(b"a" * 40).size
    quarantine = bounded(path, quarantine_bytes=most)
    quarantine.add([refused(b"a" * 40), refused(b"b" * 40), refused(b"c" * 40)])
    assert [body[:1] for body in bodies(quarantine)] == [b"b", b"c"]

    quarantine.add([refused(b"d" * most)])
    assert bodies(quarantine) == []


def without_a_body():
    """Refuse a request whose headers take more space than they seem to."""
    headers = [(b"requestid", b"\xff" * 500), (b"user-agent", b"\x80" * 500)]
    return from_request(Kind.EVENTS, headers, b"", NotAuthentic("wrong"), SigningKeys(current=b"the-current-key"))


def test_headers_count_as_bytes(path):
    quarantine = bounded(path, quarantine_bytes=20_000)
    assert without_a_body().size > 6000
    assert quarantine.add([without_a_body() for _ in range(10)]) == 7
    assert len(bodies(quarantine)) == 3


def test_headers_count_against_the_disk_reserve(path, monkeypatch):
    quarantine = bounded(path, disk_reserve=1)
    monkeypatch.setattr(DiskReserve, "_check_disk", lambda *_: 20_000)
    quarantine.add([without_a_body()])
    with pytest.raises(InboxUnavailable, match="DISK_RESERVE"):
        quarantine.add([without_a_body() for _ in range(10)])


def test_expired_requests_are_deleted(path, quarantine):
    quarantine.add([refused()])
    assert bounded(path, quarantine_age=timedelta(microseconds=1)).add([]) == 1

    assert bodies(quarantine) == []
    assert quarantine.dropped() == 1


def test_an_empty_quarantine_has_dropped_nothing(quarantine):
    assert quarantine.add([]) == 0
    assert quarantine.dropped() == 0
    assert quarantine.list() == []


def test_listing_takes_no_write_lock(path, quarantine):
    quarantine.add([refused()])
    writer = open_inbox_file(path)
    writer.execute("BEGIN IMMEDIATE")

    assert len(quarantine.list()) == 1
    assert quarantine.dropped() == 0
    writer.execute("ROLLBACK")
    writer.close()


def test_reverification_uses_one_connection(quarantine, monkeypatch):
    quarantine.add([refused() for _ in range(3)])
    opens, opened = quarantine_module.open_for_inserts, []
    monkeypatch.setattr(quarantine_module, "open_for_inserts", lambda path: opened.append(path) or opens(path))

    assert all(each.kept for each in quarantine.reverify(SigningKeys(current=KEY)))
    assert len(opened) == 1


def test_requests_that_pass_move_to_the_inbox_with_their_time_of_arrival(path, quarantine):
    good, bad, better = refused(b"good"), refused(b"bad", b"nobody's key"), refused(b"better")
    quarantine.add([good, bad, better])

    assert [each.kept for each in quarantine.reverify(SigningKeys(current=b"the-current-key"))] == [None] * 3
    outcomes = list(quarantine.reverify(SigningKeys(current=b"the-current-key", next=KEY)))

    assert [(each.request.body, each.kept and each.kept.duplicate, each.reason) for each in outcomes] == [
        (b"good", False, None),
        (b"bad", None, "The signature was made with neither key."),
        (b"better", False, None),
    ]
    assert bodies(quarantine) == [b"bad"]
    assert inbox(path) == [
        (b"good", pytest.approx(good.received_at.timestamp()), "next"),
        (b"better", pytest.approx(better.received_at.timestamp()), "next"),
    ]


def test_a_request_that_was_kept_meanwhile_is_a_duplicate(path, quarantine):
    quarantine.add([refused(b"twice"), refused(b"twice")])

    outcomes = list(quarantine.reverify(SigningKeys(current=KEY)))

    assert [each.kept.duplicate for each in outcomes] == [False, True]
    assert bodies(quarantine) == []


def test_two_reverifications_can_run_at_once(path, quarantine):
    quarantine.add([refused(b"1"), refused(b"2"), refused(b"3")])
    one, other = quarantine.reverify(SigningKeys(current=KEY)), quarantine.reverify(SigningKeys(current=KEY))
    outcomes = [next(one), next(other), *one, *other]

    assert sorted(each.kept.duplicate for each in outcomes) == [False, False, False, True, True]
    assert [body for body, *_ in inbox(path) if body is not None] == [b"1", b"2", b"3"]


def test_a_crash_during_reverification_leaves_the_request_in_quarantine(path, quarantine, monkeypatch):
    quarantine.add([refused(b"1")])
    keeps = quarantine_module.upsert_rows

    def crashes(file, rows):
        keeps(file, rows)
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(quarantine_module, "upsert_rows", crashes)
    with pytest.raises(InboxUnavailable, match="disk I/O error"):
        list(quarantine.reverify(SigningKeys(current=KEY)))

    assert bodies(quarantine) == [b"1"]
    assert inbox(path) == []


@pytest.fixture
def writer(quarantine, monkeypatch):
    """A writer of quarantine that writes every few milliseconds."""
    monkeypatch.setattr(quarantine_module, "PAUSE", timedelta(milliseconds=5))
    metrics = Metrics()
    opened = QuarantineWriter(quarantine, metrics)
    opened.metrics = metrics
    yield opened
    opened.close()


def test_queued_requests_are_written_soon_and_logged_in_one_line(writer, quarantine, eventually):
    with capture_logs() as logs:
        for _ in range(3):
            writer.enqueue(refused())
        writer.start()
        eventually(lambda: len(quarantine.list()) == 3)
        writer.enqueue(refused())
        eventually(lambda: len(quarantine.list()) == 4)
        writer.close()

    assert [(line["event"], line["count"], line["reasons"]) for line in logs] == [
        ("requests.quarantined", 3, {"wrong": 3}),
        ("requests.quarantined", 1, {"wrong": 1}),
    ]
    assert b"webhooks_quarantine_entered_total 4.0" in writer.metrics.text({})


def test_waiting_requests_are_written_at_close(writer, quarantine):
    writer.start()
    writer.enqueue(refused(b"last"))
    writer.close()

    assert bodies(quarantine) == [b"last"]


@pytest.mark.parametrize(("bound", "value"), [("MAX_QUEUE", 10), ("MAX_QUEUE_BYTES", 10 * refused(b"1000").size)])
def test_in_a_flood_the_newest_requests_are_kept_and_the_others_counted(writer, quarantine, monkeypatch, bound, value):
    monkeypatch.setattr(quarantine_module, bound, value)
    for number in range(1000, 1100):
        writer.enqueue(refused(b"%d" % number))
    writer.start()
    writer.close()

    assert bodies(quarantine) == [b"%d" % number for number in range(1090, 1100)]
    assert quarantine.dropped() == 90
    assert b"webhooks_quarantine_dropped_total 90.0" in writer.metrics.text({})


def test_the_queue_is_bounded_by_its_headers_too(writer, quarantine, monkeypatch):
    monkeypatch.setattr(quarantine_module, "MAX_QUEUE_BYTES", 20_000)
    for _ in range(10):
        writer.enqueue(without_a_body())
    writer.start()
    writer.close()

    assert (len(bodies(quarantine)), quarantine.dropped()) == (3, 7)


def test_requests_that_expire_while_none_arrives_are_counted(path, quarantine, monkeypatch, eventually):
    quarantine.add([refused(), refused()])
    monkeypatch.setattr(quarantine_module, "EXPIRY", timedelta(milliseconds=1))
    monkeypatch.setattr(quarantine_module, "PAUSE", timedelta(milliseconds=1))
    metrics = Metrics()
    writer = QuarantineWriter(bounded(path, quarantine_age=timedelta(microseconds=1)), metrics)
    writer.start()
    eventually(lambda: not bodies(quarantine))
    writer.close()

    assert quarantine.dropped() == 2
    assert b"webhooks_quarantine_dropped_total 2.0" in metrics.text({})


def test_a_request_larger_than_the_queue_passes_it_alone(writer, quarantine, monkeypatch):
    monkeypatch.setattr(quarantine_module, "MAX_QUEUE_BYTES", 10)
    writer.enqueue(refused(b"x" * 20))
    writer.start()
    writer.close()

    assert len(bodies(quarantine)) == 1


@pytest.mark.parametrize("failure", [InboxUnavailable("no room"), MemoryError()])
def test_requests_wait_until_they_can_be_written(writer, quarantine, monkeypatch, eventually, failure):
    adds, failures = quarantine.add, []

    def fails(_requests, *, dropped):
        failures.append(dropped)
        raise failure

    monkeypatch.setattr(quarantine, "add", fails)
    with capture_logs() as logs:
        writer.start()
        writer.enqueue(refused(b"1"))
        eventually(lambda: len(failures) > 2)
        writer.enqueue(refused(b"2"))
        monkeypatch.setattr(quarantine, "add", adds)
        eventually(lambda: len(quarantine.list()) == 2)

    assert bodies(quarantine) == [b"1", b"2"]
    assert [line["event"] for line in logs if line["event"] == "quarantine.failed"] == ["quarantine.failed"]
    assert quarantine.dropped() == 0


def test_a_writer_can_be_closed_twice_and_without_a_start(quarantine):
    QuarantineWriter(quarantine, Metrics()).close()
    writer = QuarantineWriter(quarantine, Metrics())
    writer.start()
    writer.enqueue(refused(b"last"))
    writer.close()
    writer.close()
    assert bodies(quarantine) == [b"last"]
    assert "quarantine" not in [thread.name for thread in threading.enumerate()]


def test_a_header_that_names_a_cdr_comes_through_quarantine(path):
    settings = load_settings(data_dir=path.parent, cdr_request_id="/requestId,Delivery-Number")
    quarantine = Quarantine(path, settings)
    headers = [(SIGNATURE_HEADER.encode(), sign(b"{}", KEY).encode()), (b"delivery-number", b"r1"), (b"other", b"x")]
    keeping = headers_to_keep(["delivery-number"])
    quarantine.add(
        [from_request(Kind.CDRS, headers, b"{}", NotAuthentic("wrong"), SigningKeys(current=b"other"), keeping)]
    )
    (let_in,) = quarantine.reverify(SigningKeys(current=KEY))
    assert let_in.kept is not None
    file = open_inbox_file(path)
    assert file.execute("SELECT headers FROM deliveries").fetchone()[0] == '{"delivery-number":"r1"}'
    file.close()
