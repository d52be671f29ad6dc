import asyncio
import contextlib
import json
import sqlite3
import threading
import time
from datetime import timedelta
from types import SimpleNamespace

import pytest
from structlog.testing import capture_logs

from ingest.errors import InboxUnavailable
from ingest.inbox import heartbeat as heartbeat_module
from ingest.inbox import write_lock
from ingest.inbox.downtime import list_downtimes
from ingest.inbox.heartbeat import Heartbeat, Instant
from ingest.inbox.schema import FILE_NAME, open_inbox_file

SHORTEST = timedelta(seconds=5)
NOON = 1_780_000_000.0


class QuietInbox:
    """An inbox that works, or fails."""

    def __init__(self):
        self.problem = None
        self.probes = 0

    async def probe(self):
        self.probes += 1
        if self.problem:
            raise InboxUnavailable


@pytest.fixture
def at(monkeypatch):
    """Set both clocks."""

    def set_clocks(moment):
        monkeypatch.setattr(Instant, "now", staticmethod(lambda: moment))

    return set_clocks


@pytest.fixture
def path(tmp_path):
    return tmp_path / FILE_NAME


@pytest.fixture
def inbox():
    return QuietInbox()


@pytest.fixture
def arrive(path, inbox):
    """Beat once and close without a last beat, like a process that is killed; return the log."""

    def once():
        heartbeat = Heartbeat(path, inbox, SHORTEST)
        with capture_logs() as lines:
            asyncio.run(beat_once(heartbeat))
        heartbeat.close()
        return lines

    return once


async def beat_once(heartbeat):
    """Run one turn of the loop, without the pause after it."""
    task = asyncio.create_task(heartbeat.run())
    with contextlib.suppress(asyncio.CancelledError):
        await task


@pytest.fixture(autouse=True)
def _one_turn(monkeypatch):
    async def stop(_seconds):
        raise asyncio.CancelledError

    monkeypatch.setattr(heartbeat_module, "asyncio", SimpleNamespace(sleep=stop, to_thread=asyncio.to_thread))


def downtimes(path):
    with contextlib.closing(open_inbox_file(path)) as file:
        return [
            (each.closed_at.timestamp() - NOON, each.opened_at.timestamp() - NOON) for each in list_downtimes(file, "x")
        ]


def test_the_first_start_of_a_node_is_no_downtime(path, arrive, at):
    at(Instant(NOON))
    assert arrive() == []
    assert downtimes(path) == []


def test_the_downtime_since_the_last_beat_is_recorded_and_logged_at_start(path, arrive, at):
    at(Instant(NOON))
    arrive()
    at(Instant(NOON + 90.5))
    (line,) = arrive()
    assert line == {"event": "downtime.detected", "seconds": 90.5, "log_level": "warning"}
    assert downtimes(path) == [(0, 90.5)]


@pytest.mark.parametrize(("seconds", "is_kept"), [(4.9, False), (5.0, True)])
def test_a_span_shorter_than_the_setting_is_no_downtime(path, arrive, at, seconds, is_kept):
    at(Instant(NOON))
    arrive()
    at(Instant(NOON + seconds))
    arrive()
    assert len(downtimes(path)) == is_kept


def test_a_restart_of_one_of_two_processes_is_no_downtime(path, inbox, arrive, at):
    other = Heartbeat(path, inbox, SHORTEST)
    for seconds in range(0, 16, 4):
        at(Instant(NOON + seconds))
        asyncio.run(beat_once(other))
    at(Instant(NOON + 16))
    assert arrive() == []
    other.close()
    assert downtimes(path) == []


def test_one_of_several_processes_that_start_together_records_the_downtime(path, inbox, at, arrive):
    at(Instant(NOON))
    arrive()
    at(Instant(NOON + 60))
    together = threading.Barrier(4)
    all_of_them = [Heartbeat(path, inbox, SHORTEST) for _ in range(4)]

    def sign(heartbeat):
        together.wait()
        heartbeat.beat_last()

    with capture_logs() as lines:
        threads = [threading.Thread(target=sign, args=(each,)) for each in all_of_them]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for each in all_of_them:
        each.close()
    assert downtimes(path) == [(0, 60)]
    assert len(lines) == 1


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        pytest.param((0, "a", 100), (3602, "a", 102), [], id="the clock jumps forward"),
        pytest.param((0, "a", 100), (-3598, "a", 102), [], id="the clock jumps back"),
        pytest.param((0, "a", 100), (-3590, "a", 110), [10], id="the clock jumps back in a gap"),
        pytest.param((0, "a", 100), (30, "b", 5), [30], id="the machine was started again"),
        pytest.param((0, "a", 100), (-30, "b", 5), [], id="started again with the clock set back"),
        pytest.param((0, None, 0), (30, None, 0), [30], id="a machine that does not count"),
    ],
)
def test_a_wall_clock_that_is_set_causes_no_wrong_downtime(arrive, at, before, after, expected):
    at(Instant(NOON + before[0], *before[1:]))
    arrive()
    at(Instant(NOON + after[0], *after[1:]))
    logged = [line["seconds"] for line in arrive() if line["event"] == "downtime.detected"]
    assert logged == expected
    at(Instant(NOON + after[0] + 1, after[1], after[2] + 1))
    assert arrive() == []  # the next beat ends it


def test_a_wall_clock_set_back_across_a_boot_is_logged(arrive, at):
    at(Instant(NOON, "a", 100))
    arrive()
    at(Instant(NOON - 30, "b", 5))
    assert [line["event"] for line in arrive()] == ["downtime.unknown"]


def test_a_span_in_which_the_inbox_fails_is_a_downtime_too(path, inbox, arrive, at):
    at(Instant(NOON))
    arrive()
    inbox.problem = "OperationalError: database or disk is full"
    at(Instant(NOON + 600))
    assert arrive() == []
    assert inbox.probes > 0
    inbox.problem = None
    at(Instant(NOON + 900))
    arrive()
    assert downtimes(path) == [(0, 900)]


def test_the_last_beat_comes_after_the_last_connection(path, inbox, at, arrive):
    heartbeat = Heartbeat(path, inbox, SHORTEST)
    at(Instant(NOON))
    heartbeat.beat_last()
    at(Instant(NOON + 20))
    heartbeat.beat_last()
    asyncio.run(beat_once(heartbeat))  # open connections are still answered; that is no beat
    heartbeat.close()
    arrive()
    assert downtimes(path) == [(0, 20)]


def test_a_beat_that_fails_is_logged_once_and_retried(path, inbox, at):
    at(Instant(NOON))
    heartbeat = Heartbeat(path, inbox, SHORTEST)
    path.mkdir(parents=True)
    with capture_logs() as lines:
        for _ in range(3):
            asyncio.run(beat_once(heartbeat))
    assert [line["event"] for line in lines] == ["heartbeat.failed"]
    path.rmdir()
    asyncio.run(beat_once(heartbeat))
    heartbeat.close()
    with contextlib.closing(open_inbox_file(path)) as file:
        (sign,) = file.execute("SELECT value FROM meta WHERE name = 'alive'").fetchone()
    assert json.loads(sign)["at"] == NOON


def write_sign(path, text):
    with contextlib.closing(open_inbox_file(path)) as file:
        file.execute("INSERT OR REPLACE INTO meta VALUES ('alive', ?)", (text,))


@pytest.mark.parametrize("others", [{}, {"boot": None, "since_boot": 0.0, "moon": "full"}])
def test_a_beat_of_another_release_is_parsed_as_far_as_possible(path, arrive, at, others):
    write_sign(path, json.dumps({"at": NOON} | others))
    at(Instant(NOON + 60))
    arrive()
    assert downtimes(path) == [(0, 60)]


@pytest.mark.parametrize("text", ["", "no JSON", "7", "[]", "{}", '{"at": "noon"}', '{"at": null, "since_boot": 1}'])
def test_a_beat_that_cannot_be_parsed_is_replaced_by_the_next(path, arrive, at, text):
    write_sign(path, text)
    at(Instant(NOON))
    assert [line["event"] for line in arrive()] == ["downtime.unknown"]
    at(Instant(NOON + 60))
    arrive()
    assert downtimes(path) == [(0, 60)]


def test_the_lock_is_released_whatever_a_beat_raises(path, inbox, at, monkeypatch):
    def fail(*_args, **_keywords):
        raise LookupError("nobody expects it")

    monkeypatch.setattr(heartbeat_module, "record_downtime", fail)
    heartbeat = Heartbeat(path, inbox, SHORTEST)
    at(Instant(NOON))
    asyncio.run(beat_once(heartbeat))
    at(Instant(NOON + 60))
    with pytest.raises(LookupError):
        asyncio.run(beat_once(heartbeat))
    with contextlib.closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")
    heartbeat.close()


def test_a_beat_waits_for_a_busy_inbox_only_so_long(path, inbox, monkeypatch):
    monkeypatch.setattr(write_lock, "LOCK_TIMEOUT", 0.1)
    with (
        contextlib.closing(open_inbox_file(path)) as busy,
        contextlib.closing(Heartbeat(path, inbox, SHORTEST)) as each,
    ):
        asyncio.run(beat_once(each))
        busy.execute("BEGIN IMMEDIATE")
        with capture_logs() as lines:
            each.beat_last()
        busy.execute("COMMIT")
    assert "database is locked" in lines[0]["error"]


def test_a_file_without_the_table_of_downtimes_gets_one(path, arrive, at):
    with contextlib.closing(open_inbox_file(path)) as file:
        file.execute("DROP TABLE gaps")
    at(Instant(NOON))
    arrive()
    assert downtimes(path) == []


def test_both_clocks_can_be_read_here():
    first = Instant.now()
    time.sleep(0.01)
    assert 0 < Instant.now().seconds_since(first) < 10
    assert abs(first.at - time.time()) < 10


def test_only_the_latest_downtimes_are_stored(path, arrive, at, monkeypatch):
    monkeypatch.setattr("ingest.inbox.downtime.MAX_DOWNTIMES", 3)
    for number in range(6):
        at(Instant(NOON + number * 10))
        arrive()
    assert downtimes(path) == [(20, 30), (30, 40), (40, 50)]


def test_a_beat_does_not_wait_for_readers(path, arrive, at):
    at(Instant(NOON))
    arrive()
    with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as reader:
        assert reader.execute("SELECT count(*) FROM meta WHERE name = 'alive'").fetchone() == (1,)
