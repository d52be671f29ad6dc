import asyncio
import contextlib
import itertools
import sqlite3
import subprocess
import sys
import threading
from datetime import UTC, datetime

import pytest
from structlog.testing import capture_logs

from ingest.config.settings import load_settings
from ingest.errors import InboxUnavailable
from ingest.inbox import inbox as inbox_module
from ingest.inbox.inbox import Inbox
from ingest.inbox.rows import MAX_ROWS_PER_INSERT, Kept, open_for_inserts
from ingest.inbox.schema import FILE_NAME, open_inbox_file
from ingest.metrics import Metrics
from ingest.wire.envelope import Envelope, Kind

NUMBERS = itertools.count()
# Seconds that a test's inbox waits for the write lock.
BUSY = 0.05


def envelope(body=None, kind=Kind.EVENTS):
    return Envelope(kind, body or b'{"number": %d}' % next(NUMBERS), datetime.now(UTC), "current", None, {})


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    """Shorten the wait for locks."""

    def open_it(path):
        file = open_for_inserts(path)
        file.execute(f"PRAGMA busy_timeout = {int(BUSY * 1000)}")
        return file

    monkeypatch.setattr(inbox_module, "open_for_inserts", open_it)


@pytest.fixture
def path(settings):
    return settings.data_dir / FILE_NAME


@contextlib.asynccontextmanager
async def opened(settings, metrics=None):
    inbox = Inbox(settings.data_dir / FILE_NAME, settings, metrics)
    await asyncio.to_thread(inbox.start)
    try:
        yield inbox
    finally:
        await asyncio.to_thread(inbox.close)


@contextlib.contextmanager
def locked(path):
    """Lock the file for writers."""
    other = open_inbox_file(path)
    other.execute("BEGIN IMMEDIATE")
    yield
    other.rollback()
    other.close()


def writing_threads():
    return sum(thread.name == "inbox" for thread in threading.enumerate())


def bodies(path):
    with contextlib.closing(open_inbox_file(path)) as file:
        return [body for (body,) in file.execute("SELECT body FROM deliveries ORDER BY seq")]


def test_a_delivery_is_in_the_file_when_its_future_is_done(settings, path):
    async def story():
        async with opened(settings) as inbox:
            sent = envelope(b"{}")
            assert await inbox.insert(sent) == Kept(sent.id, duplicate=False)
            assert bodies(path) == [b"{}"]

    asyncio.run(story())


def test_the_same_bytes_are_inserted_once_for_each_kind(settings, path):
    async def story():
        async with opened(settings) as inbox:
            first, again = await inbox.insert(envelope(b"{}")), await inbox.insert(envelope(b"{}"))
            other = await inbox.insert(envelope(b"{}", Kind.CDRS))
            assert (first.duplicate, again.duplicate, other.duplicate) == (False, True, False)
            assert first.id == again.id != other.id

    asyncio.run(story())
    assert [body for body in bodies(path) if body is not None] == [b"{}", b"{}"]


def test_the_second_of_two_in_one_group_is_the_duplicate(settings):
    async def story():
        async with opened(settings) as inbox:
            kept = await asyncio.gather(inbox.insert(envelope(b"{}")), inbox.insert(envelope(b"{}")))
            assert [one.duplicate for one in kept] == [False, True]

    asyncio.run(story())


def test_deliveries_of_one_turn_of_the_loop_share_one_commit(settings):
    async def story():
        commits = []
        async with opened(settings) as inbox:
            inbox.on_commit(lambda: commits.append(threading.current_thread().name))
            await asyncio.gather(*[inbox.insert(envelope()) for _ in range(50)])
        assert commits == ["inbox"]

    asyncio.run(story())


def test_deliveries_that_arrive_during_a_commit_share_the_next(settings, path):
    async def story():
        commits = []
        async with opened(settings) as inbox:
            inbox.on_commit(lambda: commits.append(len(bodies(path))))
            first = [inbox.insert(envelope()) for _ in range(3)]
            await asyncio.sleep(0)  # the thread has its command
            await asyncio.sleep(0)
            rest = [inbox.insert(envelope()) for _ in range(5)]
            await asyncio.gather(*first, *rest)
        assert commits[-1] == 8
        assert len(commits) <= 2

    asyncio.run(story())


def test_a_group_is_bounded_and_the_rest_follows(settings, monkeypatch):
    monkeypatch.setattr(inbox_module, "MAX_GROUP", 10)

    async def story():
        commits = []
        async with opened(settings) as inbox:
            inbox.on_commit(lambda: commits.append(None))
            await asyncio.gather(*[inbox.insert(envelope()) for _ in range(35)])
        assert len(commits) == 4

    asyncio.run(story())


def test_a_large_group_is_one_statement_and_what_does_not_fit_follows_in_order(settings, path, monkeypatch):
    def refuse(*_arguments):
        raise AssertionError("there is no duplicate")

    monkeypatch.setattr(inbox_module, "upsert_rows", refuse)

    async def story():
        commits = []
        sent = [envelope() for _ in range(2 * MAX_ROWS_PER_INSERT + 7)]
        async with opened(settings.model_copy(update={"disk_reserve": 0})) as inbox:
            inbox.on_commit(lambda: commits.append(len(bodies(path))))
            kept = await asyncio.gather(*map(inbox.insert, sent))
        assert commits == [2 * MAX_ROWS_PER_INSERT, len(sent)]
        assert [each.id for each in kept] == [each.id for each in sent]
        assert bodies(path) == [each.body for each in sent]

    asyncio.run(story())


def test_several_processes_share_one_file(settings, path):
    async def story():
        async with opened(settings) as one, opened(settings) as other:
            sent = [envelope() for _ in range(40)]
            kept = await asyncio.gather(*[inbox.insert(each) for each in sent for inbox in (one, other)])
            assert sum(each.duplicate for each in kept) == 40
        assert sorted(filter(None, bodies(path))) == sorted(each.body for each in sent)

    asyncio.run(story())


def test_an_insert_fails_while_the_lock_is_taken_and_works_again_afterwards(settings, path):
    async def story():
        async with opened(settings) as inbox:
            with capture_logs() as logs, locked(path):
                for _ in range(2):
                    with pytest.raises(InboxUnavailable):
                        await inbox.insert(envelope())
                assert "locked" in inbox.problem
            await inbox.insert(envelope())
            assert inbox.problem is None
        assert [line["event"] for line in logs] == ["inbox.failed"]
        assert len(bodies(path)) == 1

    asyncio.run(story())


def test_an_insert_fails_on_a_full_disk_and_works_again_afterwards(settings, path, monkeypatch):
    """The file must not grow, as on a full disk; then it may."""
    files = []
    opens = inbox_module.open_for_inserts
    monkeypatch.setattr(inbox_module, "open_for_inserts", lambda path: files.append(opens(path)) or files[-1])
    large = b'"' + bytes(60_000) + b'"'

    async def story():
        async with opened(settings) as inbox:
            await inbox.insert(envelope(b"before"))
            (pages,) = files[0].execute("PRAGMA page_count").fetchone()
            files[0].execute(f"PRAGMA max_page_count = {pages}")
            together = [inbox.insert(envelope(large)), inbox.insert(envelope(b"with it"))]
            for refused in await asyncio.gather(*together, return_exceptions=True):
                assert isinstance(refused, InboxUnavailable)
            assert "full" in inbox.problem
            files[0].execute("PRAGMA max_page_count = 1000000")
            await inbox.insert(envelope(large))
        assert bodies(path) == [b"before", large]
        assert len(files) == 1

    asyncio.run(story())


@pytest.mark.parametrize("error", [sqlite3.OperationalError("disk I/O error"), ValueError("a fault of ours")])
def test_an_unknown_error_fails_one_group_and_opens_a_new_connection(settings, path, monkeypatch, error):
    opens, keeps = inbox_module.open_for_inserts, inbox_module.upsert_rows
    files = []
    monkeypatch.setattr(inbox_module, "open_for_inserts", lambda path: files.append(opens(path)) or files[-1])
    metrics = Metrics()

    def fails(file, rows):
        keeps(file, rows)
        monkeypatch.setattr(inbox_module, "upsert_rows", keeps)
        raise error

    async def story():
        async with opened(settings, metrics) as inbox:
            monkeypatch.setattr(inbox_module, "upsert_rows", fails)
            refused = inbox.insert(envelope(b"refused")), inbox.probe()  # with a probe it is more than one statement
            for outcome in await asyncio.gather(*refused, return_exceptions=True):
                assert isinstance(outcome, InboxUnavailable)
            await inbox.insert(envelope(b"kept"))

    asyncio.run(story())
    assert bodies(path) == [b"kept"]
    assert len(files) == 2
    assert b"webhooks_inbox_commits_failed_total 1.0" in metrics.text({})


def test_a_connection_that_cannot_be_used_is_replaced(settings, path, monkeypatch):
    opens = inbox_module.open_for_inserts
    files = []
    monkeypatch.setattr(inbox_module, "open_for_inserts", lambda path: files.append(opens(path)) or files[-1])

    async def story():
        async with opened(settings) as inbox:
            files[0].close()
            with pytest.raises(InboxUnavailable):
                await inbox.insert(envelope())
            await inbox.insert(envelope(b"kept"))

    asyncio.run(story())
    assert bodies(path) == [b"kept"]


def test_inserts_fail_until_the_data_folder_can_be_created(tmp_path):
    in_the_way = tmp_path / "var"
    settings = load_settings(data_dir=in_the_way, plugsurfing_hmac_current="the-current-key")
    in_the_way.write_text("not a folder")

    async def story():
        async with opened(settings) as inbox:
            assert inbox.problem
            with pytest.raises(InboxUnavailable):
                await inbox.insert(envelope())
            in_the_way.unlink()
            await inbox.insert(envelope(b"kept"))

    asyncio.run(story())
    assert bodies(in_the_way / FILE_NAME) == [b"kept"]


def test_an_inbox_that_could_never_open_its_file_reports_why_and_can_be_closed(tmp_path):
    settings = load_settings(data_dir=tmp_path / "var", plugsurfing_hmac_current="the-current-key")
    settings.data_dir.write_text("not a folder")
    inbox = Inbox(settings.data_dir / FILE_NAME, settings)
    inbox.start()
    assert "Error" in inbox.problem
    assert writing_threads() == 1
    inbox.close()
    assert writing_threads() == 0


def test_waiting_deliveries_are_bounded_in_bytes_but_one_may_always_wait(settings, path):
    settings = settings.model_copy(update={"waiting_bytes": 10_000})

    async def story():
        async with opened(settings) as inbox:
            with locked(path):
                first = inbox.insert(envelope(b"x" * 20_000))
                with pytest.raises(InboxUnavailable):
                    inbox.insert(envelope())
                with pytest.raises(InboxUnavailable):
                    await first
            await inbox.insert(envelope())

    asyncio.run(story())


def test_a_cancelled_request_does_not_affect_the_others(settings, path):
    async def story():
        async with opened(settings) as inbox:
            with locked(path):
                refused, given_up = inbox.insert(envelope()), inbox.insert(envelope())
                given_up.cancel()
                with pytest.raises(InboxUnavailable):
                    await refused
            kept, given_up = inbox.insert(envelope(b"1")), inbox.insert(envelope(b"2"))
            given_up.cancel()
            assert not (await kept).duplicate

    asyncio.run(story())
    assert bodies(path) == [b"1", b"2"]


def test_closing_commits_what_waits_and_refuses_later_inserts(settings, path):
    async def story():
        inbox = Inbox(path, settings)
        inbox.start()
        waiting = inbox.insert(envelope(b"last"))
        inbox.close()
        with pytest.raises(InboxUnavailable):
            inbox.insert(envelope())
        assert not (await waiting).duplicate
        inbox.close()

    asyncio.run(story())
    assert bodies(path) == [b"last"]


def test_waiting_deliveries_are_committed_even_if_the_loop_is_closed(settings, path):
    inbox = Inbox(path, settings)
    inbox.start()

    async def story():
        inbox.insert(envelope(b"last"))

    loop = asyncio.new_event_loop()
    loop.run_until_complete(story())
    loop.close()
    inbox.close()
    assert bodies(path) == [b"last"]


def test_an_inbox_can_be_closed_before_it_is_started_and_twice(settings, path):
    inbox = Inbox(path, settings)
    inbox.close()
    inbox.start()
    assert writing_threads() == 1
    inbox.close()
    inbox.close()
    assert writing_threads() == 0


def test_a_probe_commits_no_delivery(settings, path):
    metrics = Metrics()

    async def story():
        async with opened(settings, metrics) as inbox:
            await inbox.probe()
            together = await asyncio.gather(inbox.probe(), inbox.insert(envelope(b"{}")), inbox.probe())
            assert [one.id == "" for one in together] == [True, False, True]
            with locked(path), pytest.raises(InboxUnavailable):
                await inbox.probe()

    asyncio.run(story())
    assert bodies(path) == [b"{}"]
    with contextlib.closing(open_inbox_file(path)) as file:
        assert file.execute("SELECT value FROM meta WHERE name = 'probed_at'").fetchone()


def test_commits_are_counted(settings):
    metrics = Metrics()

    async def story():
        async with opened(settings, metrics) as inbox:
            await asyncio.gather(*[inbox.insert(envelope(b"%d" % (number % 8))) for number in range(10)])

    asyncio.run(story())
    text = metrics.text({}).decode()
    assert "webhooks_deliveries_kept_total 8.0" in text
    assert "webhooks_deliveries_repeated_total 2.0" in text
    assert 'webhooks_inbox_commit_deliveries_bucket{le="8.0"} 0.0' in text
    assert 'webhooks_inbox_commit_deliveries_bucket{le="16.0"} 1.0' in text


INSERTER = """
import asyncio, itertools, sys
from datetime import UTC, datetime
from pathlib import Path
from ingest.wire.envelope import Envelope, Kind
from ingest.inbox.inbox import Inbox
from ingest.config.settings import load_settings

async def insert_for_ever(inbox, name):
    for number in itertools.count():
        body = f"{name}-{number}"
        await inbox.insert(Envelope(Kind.EVENTS, body.encode(), datetime.now(UTC), "current", None, {}))
        print(body, flush=True)

async def main():
    inbox = Inbox(Path(sys.argv[1]), load_settings(plugsurfing_hmac_current="the-current-key"))
    inbox.start()
    await asyncio.gather(*[insert_for_ever(inbox, name) for name in range(8)])

asyncio.run(main())
"""


def test_no_kept_delivery_is_missing_after_a_kill(path):
    process = subprocess.Popen([sys.executable, "-c", INSERTER, str(path)], stdout=subprocess.PIPE)
    lines = [process.stdout.readline() for _ in range(300)]
    process.kill()
    lines += process.stdout.read().splitlines(keepends=True)
    process.wait()
    process.stdout.close()

    promised = {line.strip() for line in lines if line.endswith(b"\n")}
    assert len(promised) >= 300
    assert promised <= set(bodies(path))


def test_a_delivery_whose_insert_failed_is_no_duplicate_later(settings, path, monkeypatch):
    """Its id is remembered only when it is inserted."""

    def full(*_):
        raise OSError("No space left on device")

    async def story():
        async with opened(settings) as inbox:
            with monkeypatch.context() as failing:
                for name in ("insert_new", "upsert_rows"):
                    failing.setattr(inbox_module, name, full)
                with pytest.raises(InboxUnavailable):
                    await inbox.insert(envelope(b"again"))
            assert (await inbox.insert(envelope(b"again"))).duplicate is False
        assert bodies(path) == [b"again"]

    asyncio.run(story())


def test_corruption_while_in_use_is_reported_once(settings, monkeypatch):
    reports = []

    def find_damage(*_arguments):
        error = sqlite3.DatabaseError("database disk image is malformed")
        error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
        raise error

    async def story():
        async with opened(settings) as inbox:
            inbox.on_corruption(lambda: reports.append(True))
            await inbox.insert(envelope())
            monkeypatch.setattr(inbox_module, "insert_new", find_damage)
            for _ in range(2):
                with pytest.raises(InboxUnavailable):
                    await inbox.insert(envelope())

    asyncio.run(story())
    assert reports == [True]
