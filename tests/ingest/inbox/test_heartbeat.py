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
from ingest.inbox import heartbeat as room
from ingest.inbox import write_lock
from ingest.inbox.downtime import list_downtimes
from ingest.inbox.heartbeat import Heartbeat, Instant
from ingest.inbox.schema import FILE_NAME, open_inbox_file

SHORTEST = timedelta(seconds=5)
NOON = 1_780_000_000.0


class QuietInbox:
    """An inbox that can keep, or cannot."""

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
    """Have a process give one sign and die, as if by kill -9; returns what it logged."""

    def once():
        presence = Heartbeat(path, inbox, SHORTEST)
        with capture_logs() as lines:
            asyncio.run(one_round(presence))
        presence.close()
        return lines

    return once


async def one_round(presence):
    """One turn of `keep`, without the pause after it."""
    task = asyncio.create_task(presence.run())
    with contextlib.suppress(asyncio.CancelledError):
        await task


@pytest.fixture(autouse=True)
def _one_turn(monkeypatch):
    async def stop(_seconds):
        raise asyncio.CancelledError

    monkeypatch.setattr(room, "asyncio", SimpleNamespace(sleep=stop, to_thread=asyncio.to_thread))


def gaps(path):
    with contextlib.closing(open_inbox_file(path)) as file:
        return [
            (gap.closed_at.timestamp() - NOON, gap.opened_at.timestamp() - NOON) for gap in list_downtimes(file, "x")
        ]


def test_a_node_that_was_never_there_has_no_gap(path, arrive, at):
    at(Instant(NOON))
    assert arrive() == []
    assert gaps(path) == []


def test_the_gap_since_the_last_sign_is_measured_and_told_at_start(path, arrive, at):
    at(Instant(NOON))
    arrive()
    at(Instant(NOON + 90.5))
    (line,) = arrive()
    assert line == {"event": "downtime.detected", "seconds": 90.5, "log_level": "warning"}
    assert gaps(path) == [(0, 90.5)]


@pytest.mark.parametrize(("seconds", "is_kept"), [(4.9, False), (5.0, True)])
def test_what_is_shorter_than_the_setting_is_no_gap(path, arrive, at, seconds, is_kept):
    at(Instant(NOON))
    arrive()
    at(Instant(NOON + seconds))
    arrive()
    assert len(gaps(path)) == is_kept


def test_one_of_two_that_is_started_again_finds_no_gap(path, inbox, arrive, at):
    other = Heartbeat(path, inbox, SHORTEST)
    for seconds in range(0, 16, 4):
        at(Instant(NOON + seconds))
        asyncio.run(one_round(other))
    at(Instant(NOON + 16))
    assert arrive() == []
    other.close()
    assert gaps(path) == []


def test_of_several_that_start_together_one_notes_the_gap(path, inbox, at, arrive):
    at(Instant(NOON))
    arrive()
    at(Instant(NOON + 60))
    together = threading.Barrier(4)
    all_of_them = [Heartbeat(path, inbox, SHORTEST) for _ in range(4)]

    def sign(presence):
        together.wait()
        presence.beat_last()

    with capture_logs() as lines:
        threads = [threading.Thread(target=sign, args=(each,)) for each in all_of_them]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for each in all_of_them:
        each.close()
    assert gaps(path) == [(0, 60)]
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
def test_a_clock_that_is_set_makes_no_nonsense(arrive, at, before, after, expected):
    at(Instant(NOON + before[0], *before[1:]))
    arrive()
    at(Instant(NOON + after[0], *after[1:]))
    told = [line["seconds"] for line in arrive() if line["event"] == "downtime.detected"]
    assert told == expected
    at(Instant(NOON + after[0] + 1, after[1], after[2] + 1))
    assert arrive() == []  # and it is over with the next sign


def test_a_clock_set_back_over_a_restart_is_said(arrive, at):
    at(Instant(NOON, "a", 100))
    arrive()
    at(Instant(NOON - 30, "b", 5))
    assert [line["event"] for line in arrive()] == ["downtime.unknown"]


def test_a_time_in_which_nothing_could_be_kept_is_a_gap_too(path, inbox, arrive, at):
    at(Instant(NOON))
    arrive()
    inbox.problem = "OperationalError: database or disk is full"
    at(Instant(NOON + 600))
    assert arrive() == []
    assert inbox.probes > 0
    inbox.problem = None
    at(Instant(NOON + 900))
    arrive()
    assert gaps(path) == [(0, 900)]


def test_the_last_sign_is_given_when_no_one_new_is_let_in(path, inbox, at, arrive):
    presence = Heartbeat(path, inbox, SHORTEST)
    at(Instant(NOON))
    presence.beat_last()
    at(Instant(NOON + 20))
    presence.beat_last()
    asyncio.run(one_round(presence))  # it answers who is still there; that is no sign
    presence.close()
    arrive()
    assert gaps(path) == [(0, 20)]


def test_a_file_that_cannot_be_written_is_said_once_and_tried_again(path, inbox, at):
    at(Instant(NOON))
    presence = Heartbeat(path, inbox, SHORTEST)
    path.mkdir(parents=True)
    with capture_logs() as lines:
        for _ in range(3):
            asyncio.run(one_round(presence))
    assert [line["event"] for line in lines] == ["heartbeat.failed"]
    path.rmdir()
    asyncio.run(one_round(presence))
    presence.close()
    with contextlib.closing(open_inbox_file(path)) as file:
        (sign,) = file.execute("SELECT value FROM meta WHERE name = 'alive'").fetchone()
    assert json.loads(sign)["at"] == NOON


def write_sign(path, text):
    with contextlib.closing(open_inbox_file(path)) as file:
        file.execute("INSERT OR REPLACE INTO meta VALUES ('alive', ?)", (text,))


@pytest.mark.parametrize("others", [{}, {"boot": None, "since_boot": 0.0, "moon": "full"}])
def test_a_sign_of_another_release_is_read_as_far_as_it_is_known(path, arrive, at, others):
    write_sign(path, json.dumps({"at": NOON} | others))
    at(Instant(NOON + 60))
    arrive()
    assert gaps(path) == [(0, 60)]


@pytest.mark.parametrize("text", ["", "no JSON", "7", "[]", "{}", '{"at": "noon"}', '{"at": null, "since_boot": 1}'])
def test_a_sign_that_cannot_be_read_is_none_and_the_next_one_counts(path, arrive, at, text):
    write_sign(path, text)
    at(Instant(NOON))
    assert [line["event"] for line in arrive()] == ["downtime.unknown"]
    at(Instant(NOON + 60))
    arrive()
    assert gaps(path) == [(0, 60)]


def test_whatever_goes_wrong_the_door_gets_its_lock_back(path, inbox, at, monkeypatch):
    def fail(*_args, **_keywords):
        raise LookupError("nobody expects it")

    monkeypatch.setattr(room, "record_downtime", fail)
    presence = Heartbeat(path, inbox, SHORTEST)
    at(Instant(NOON))
    asyncio.run(one_round(presence))
    at(Instant(NOON + 60))
    with pytest.raises(LookupError):
        asyncio.run(one_round(presence))
    with contextlib.closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as door:
        door.execute("BEGIN IMMEDIATE")
    presence.close()


def test_it_waits_for_a_door_that_is_busy_but_not_for_ever(path, inbox, monkeypatch):
    monkeypatch.setattr(write_lock, "LOCK_TIMEOUT", 0.1)
    with (
        contextlib.closing(open_inbox_file(path)) as busy,
        contextlib.closing(Heartbeat(path, inbox, SHORTEST)) as each,
    ):
        asyncio.run(one_round(each))
        busy.execute("BEGIN IMMEDIATE")
        with capture_logs() as lines:
            each.beat_last()
        busy.execute("COMMIT")
    assert "database is locked" in lines[0]["error"]


def test_a_file_from_before_there_were_gaps_gets_its_table(path, arrive, at):
    with contextlib.closing(open_inbox_file(path)) as file:
        file.execute("DROP TABLE gaps")
    at(Instant(NOON))
    arrive()
    assert gaps(path) == []


def test_this_machine_knows_both_clocks():
    first = Instant.now()
    time.sleep(0.01)
    assert 0 < Instant.now().seconds_since(first) < 10
    assert abs(first.at - time.time()) < 10


def test_only_the_last_gaps_are_remembered(path, arrive, at, monkeypatch):
    monkeypatch.setattr("ingest.inbox.downtime.MAX_DOWNTIMES", 3)
    for number in range(6):
        at(Instant(NOON + number * 10))
        arrive()
    assert gaps(path) == [(20, 30), (30, 40), (40, 50)]


def test_a_sign_is_no_nuisance_to_who_reads(path, arrive, at):
    at(Instant(NOON))
    arrive()
    with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as reader:
        assert reader.execute("SELECT count(*) FROM meta WHERE name = 'alive'").fetchone() == (1,)
