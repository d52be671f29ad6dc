import asyncio
import time

import pytest

from ingest.errors import InboxUnavailable
from ingest.http import health as health_module
from ingest.http.health import ReadinessCheck
from ingest.inbox.schema import FILE_NAME
from ingest.relay.relay import RelayStatus


class Inbox:
    """An inbox whose probe ends as the test wants."""

    def __init__(self, problem=None, error=None):
        self.problem = problem
        self.error = error
        self.probes = 0
        self.stuck = False

    def probe(self):
        self.probes += 1
        if self.error:
            raise InboxUnavailable(self.error)
        future = asyncio.get_running_loop().create_future()
        if self.problem:
            future.set_exception(InboxUnavailable())
        elif not self.stuck:
            future.set_result(None)
        return future


class Relay:
    def status(self):
        return RelayStatus(leader=True)


def check(path, inbox, times=1):
    async def checks():
        health = ReadinessCheck(path, inbox, Relay())
        return await asyncio.gather(*[health.check() for _ in range(times)])

    return asyncio.run(checks())[0]


@pytest.fixture
def path(tmp_path):
    return tmp_path / FILE_NAME


def test_a_node_that_can_store_is_ready(inbox_file, path):
    readiness = check(path, Inbox())

    assert readiness == health_module.Readiness(None, 0, 0.0, RelayStatus(leader=True))


def test_unsettled_deliveries_are_counted_and_the_oldest_is_timed(inbox_file, path):
    inbox_file.insert(2, received_at=time.time() - 60)
    inbox_file.insert(3)

    readiness = check(path, Inbox())
    assert readiness.unsettled == 5
    assert 59 < readiness.oldest_unsettled_seconds < 70


def test_a_clock_that_was_set_back_gives_no_negative_age(inbox_file, path):
    inbox_file.insert(received_at=time.time() + 60)

    assert check(path, Inbox()).oldest_unsettled_seconds == 0


@pytest.mark.parametrize(
    ("inbox", "problem"),
    [(Inbox("disk is full"), "disk is full"), (Inbox(error="Too much waits."), "Too much waits.")],
)
def test_the_reason_why_nothing_can_be_stored_is_returned(inbox_file, path, inbox, problem):
    assert check(path, inbox).inbox_problem == problem


def test_a_disk_that_does_not_answer_is_a_problem(inbox_file, path, monkeypatch):
    monkeypatch.setattr(health_module, "PROBE_TIMEOUT", 0.01)
    inbox = Inbox()
    inbox.stuck = True

    assert check(path, inbox).inbox_problem == "Nothing was written within 0.01 seconds."


def test_a_missing_file_has_no_counts(tmp_path):
    readiness = check(tmp_path / "nowhere" / FILE_NAME, Inbox())

    assert (readiness.unsettled, readiness.oldest_unsettled_seconds) == (None, None)


def test_concurrent_checks_share_one_probe(inbox_file, path):
    inbox = Inbox()
    check(path, inbox, times=20)

    assert inbox.probes == 1


def test_a_result_is_cached_for_a_moment_only(inbox_file, path, monkeypatch):
    inbox = Inbox()

    async def checks():
        health = ReadinessCheck(path, inbox, Relay())
        await health.check()
        await health.check()
        assert inbox.probes == 1
        monkeypatch.setattr(health_module, "CACHE_FOR", 0.0)
        await health.check()
        assert inbox.probes == 2

    asyncio.run(checks())
