import asyncio
import time

import pytest

from ingest.errors import InboxUnavailable
from ingest.http import health as room
from ingest.http.health import ReadinessCheck
from ingest.inbox.schema import FILE_NAME
from ingest.relay.relay import RelayStatus


class Inbox:
    """One whose probe ends as the test says."""

    def __init__(self, problem=None, said=None):
        self.problem = problem
        self.said = said
        self.probes = 0
        self.stuck = False

    def probe(self):
        self.probes += 1
        if self.said:
            raise InboxUnavailable(self.said)
        future = asyncio.get_running_loop().create_future()
        if self.problem:
            future.set_exception(InboxUnavailable())
        elif not self.stuck:
            future.set_result(None)
        return future


class Relay:
    def status(self):
        return RelayStatus(leader=True)


def look(path, inbox, times=1):
    async def looks():
        health = ReadinessCheck(path, inbox, Relay())
        return await asyncio.gather(*[health.check() for _ in range(times)])

    return asyncio.run(looks())[0]


@pytest.fixture
def path(tmp_path):
    return tmp_path / FILE_NAME


def test_a_node_that_can_keep_is_well(inbox_file, path):
    facts = look(path, Inbox())

    assert facts == room.Readiness(None, 0, 0.0, RelayStatus(leader=True))


def test_what_is_not_settled_is_counted_and_the_oldest_is_timed(inbox_file, path):
    inbox_file.insert(2, received_at=time.time() - 60)
    inbox_file.insert(3)

    facts = look(path, Inbox())
    assert facts.unsettled == 5
    assert 59 < facts.oldest_unsettled_seconds < 70


def test_a_clock_that_was_set_back_makes_nothing_younger_than_new(inbox_file, path):
    inbox_file.insert(received_at=time.time() + 60)

    assert look(path, Inbox()).oldest_unsettled_seconds == 0


@pytest.mark.parametrize(
    ("inbox", "problem"),
    [(Inbox("disk is full"), "disk is full"), (Inbox(said="Too much waits."), "Too much waits.")],
)
def test_why_nothing_can_be_kept_is_told(inbox_file, path, inbox, problem):
    assert look(path, inbox).inbox_problem == problem


def test_a_disk_that_does_not_answer_counts_as_one_that_cannot_keep(inbox_file, path, monkeypatch):
    monkeypatch.setattr(room, "PROBE_TIMEOUT", 0.01)
    inbox = Inbox()
    inbox.stuck = True

    assert look(path, inbox).inbox_problem == "Nothing was written within 0.01 seconds."


def test_what_cannot_be_read_is_not_known(tmp_path):
    facts = look(tmp_path / "nowhere" / FILE_NAME, Inbox())

    assert (facts.unsettled, facts.oldest_unsettled_seconds) == (None, None)


def test_however_many_ask_at_once_there_is_one_probe(inbox_file, path):
    inbox = Inbox()
    look(path, inbox, times=20)

    assert inbox.probes == 1


def test_a_look_is_fresh_for_a_moment_only(inbox_file, path, monkeypatch):
    inbox = Inbox()

    async def looks():
        health = ReadinessCheck(path, inbox, Relay())
        await health.check()
        await health.check()
        assert inbox.probes == 1
        monkeypatch.setattr(room, "CACHE_FOR", 0.0)
        await health.check()
        assert inbox.probes == 2

    asyncio.run(looks())
