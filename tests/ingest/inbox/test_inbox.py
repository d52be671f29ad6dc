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
from ingest.inbox import inbox as room
from ingest.inbox.inbox import Inbox
from ingest.inbox.rows import Kept, open_for_inserts
from ingest.inbox.schema import FILE_NAME, open_inbox_file
from ingest.metrics import Metrics
from ingest.wire.envelope import Envelope, Kind

NUMBERS = itertools.count()
# Seconds that a test's inbox waits for the lock of another.
BUSY = 0.05


def envelope(body=None, kind=Kind.EVENTS):
    return Envelope(kind, body or b'{"number": %d}' % next(NUMBERS), datetime.now(UTC), "current", None, {})


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    """Wait for locks no longer than a test can."""

    def open_it(path):
        file = open_for_inserts(path)
        file.execute(f"PRAGMA busy_timeout = {int(BUSY * 1000)}")
        return file

    monkeypatch.setattr(room, "open_for_inserts", open_it)


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
    """Hold the lock that every writer needs."""
    other = open_inbox_file(path)
    other.execute("BEGIN IMMEDIATE")
    yield
    other.rollback()
    other.close()


def bodies(path):
    with contextlib.closing(open_inbox_file(path)) as file:
        return [body for (body,) in file.execute("SELECT body FROM deliveries ORDER BY seq")]


def test_what_is_kept_is_in_the_file_when_it_is_said_to_be(settings, path):
    async def story():
        async with opened(settings) as inbox:
            sent = envelope(b"{}")
            assert await inbox.insert(sent) == Kept(sent.id, duplicate=False)
            assert bodies(path) == [b"{}"]

    asyncio.run(story())


def test_the_same_bytes_are_kept_once_for_each_kind(settings, path):
    async def story():
        async with opened(settings) as inbox:
            first, again = await inbox.insert(envelope(b"{}")), await inbox.insert(envelope(b"{}"))
            other = await inbox.insert(envelope(b"{}", Kind.CDRS))
            assert (first.duplicate, again.duplicate, other.duplicate) == (False, True, False)
            assert first.id == again.id != other.id

    asyncio.run(story())
    assert [body for body in bodies(path) if body is not None] == [b"{}", b"{}"]


def test_of_two_that_come_together_the_second_is_the_repeat(settings):
    async def story():
        async with opened(settings) as inbox:
            kept = await asyncio.gather(inbox.insert(envelope(b"{}")), inbox.insert(envelope(b"{}")))
            assert [one.duplicate for one in kept] == [False, True]

    asyncio.run(story())


def test_all_that_comes_in_one_turn_of_the_loop_is_one_commit(settings):
    async def story():
        commits = []
        async with opened(settings) as inbox:
            inbox.on_commit(lambda: commits.append(threading.current_thread().name))
            await asyncio.gather(*[inbox.insert(envelope()) for _ in range(50)])
        assert commits == ["inbox"]

    asyncio.run(story())


def test_what_comes_during_a_commit_makes_the_next(settings, path):
    async def story():
        commits = []
        async with opened(settings) as inbox:
            inbox.on_commit(lambda: commits.append(len(bodies(path))))
            first = [inbox.insert(envelope()) for _ in range(3)]
            await asyncio.sleep(0)  # the thread has its signal
            await asyncio.sleep(0)
            rest = [inbox.insert(envelope()) for _ in range(5)]
            await asyncio.gather(*first, *rest)
        assert commits[-1] == 8
        assert len(commits) <= 2

    asyncio.run(story())


def test_a_group_is_bounded_and_the_rest_follows(settings, monkeypatch):
    monkeypatch.setattr(room, "MAX_GROUP", 10)

    async def story():
        commits = []
        async with opened(settings) as inbox:
            inbox.on_commit(lambda: commits.append(None))
            await asyncio.gather(*[inbox.insert(envelope()) for _ in range(35)])
        assert len(commits) == 4

    asyncio.run(story())


def test_several_processes_share_one_file(settings, path):
    async def story():
        async with opened(settings) as one, opened(settings) as other:
            sent = [envelope() for _ in range(40)]
            kept = await asyncio.gather(*[inbox.insert(each) for each in sent for inbox in (one, other)])
            assert sum(each.duplicate for each in kept) == 40
        assert sorted(filter(None, bodies(path))) == sorted(each.body for each in sent)

    asyncio.run(story())


def test_nothing_is_promised_while_another_holds_the_lock_and_service_comes_back_by_itself(settings, path):
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


def test_a_full_disk_refuses_and_room_makes_it_keep_again(settings, path, monkeypatch):
    """The file may not grow, as on a disk that is full; then it may."""
    files = []
    opens = room.open_for_inserts
    monkeypatch.setattr(room, "open_for_inserts", lambda path: files.append(opens(path)) or files[-1])
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
def test_whatever_goes_wrong_costs_one_group_and_a_new_connection(settings, path, monkeypatch, error):
    opens, keeps = room.open_for_inserts, room.upsert_rows
    files = []
    monkeypatch.setattr(room, "open_for_inserts", lambda path: files.append(opens(path)) or files[-1])
    metrics = Metrics()

    def fails(file, rows):
        keeps(file, rows)
        monkeypatch.setattr(room, "upsert_rows", keeps)
        raise error

    async def story():
        async with opened(settings, metrics) as inbox:
            monkeypatch.setattr(room, "upsert_rows", fails)
            refused = inbox.insert(envelope(b"refused")), inbox.probe()  # with a probe it is more than one statement
            for outcome in await asyncio.gather(*refused, return_exceptions=True):
                assert isinstance(outcome, InboxUnavailable)
            await inbox.insert(envelope(b"kept"))

    asyncio.run(story())
    assert bodies(path) == [b"kept"]
    assert len(files) == 2
    assert b"webhooks_inbox_commits_failed_total 1.0" in metrics.text({})


def test_a_connection_that_was_lost_altogether_is_replaced(settings, path, monkeypatch):
    opens = room.open_for_inserts
    files = []
    monkeypatch.setattr(room, "open_for_inserts", lambda path: files.append(opens(path)) or files[-1])

    async def story():
        async with opened(settings) as inbox:
            files[0].close()
            with pytest.raises(InboxUnavailable):
                await inbox.insert(envelope())
            await inbox.insert(envelope(b"kept"))

    asyncio.run(story())
    assert bodies(path) == [b"kept"]


def test_a_folder_that_cannot_be_made_refuses_until_it_can(tmp_path):
    in_the_way = tmp_path / "var"
    in_the_way.write_text("not a folder")
    settings = load_settings(data_dir=in_the_way, plugsurfing_hmac_current="the-current-key")

    async def story():
        async with opened(settings) as inbox:
            assert inbox.problem
            with pytest.raises(InboxUnavailable):
                await inbox.insert(envelope())
            in_the_way.unlink()
            await inbox.insert(envelope(b"kept"))

    asyncio.run(story())
    assert bodies(in_the_way / FILE_NAME) == [b"kept"]


def test_an_inbox_that_could_never_open_its_file_can_be_closed(tmp_path):
    (tmp_path / "var").write_text("not a folder")
    settings = load_settings(data_dir=tmp_path / "var", plugsurfing_hmac_current="the-current-key")
    inbox = Inbox(settings.data_dir / FILE_NAME, settings)
    inbox.start()
    inbox.close()


def test_what_waits_is_bounded_in_bytes_but_one_delivery_may_always_wait(settings, path):
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


def test_a_request_that_was_given_up_does_not_disturb_the_others(settings, path):
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


def test_closing_commits_what_waits_and_nothing_can_come_after(settings, path):
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


def test_what_waits_is_committed_even_if_nobody_is_left_to_be_told(settings, path):
    inbox = Inbox(path, settings)
    inbox.start()

    async def story():
        inbox.insert(envelope(b"last"))

    loop = asyncio.new_event_loop()
    loop.run_until_complete(story())
    loop.close()
    inbox.close()
    assert bodies(path) == [b"last"]


def test_an_inbox_that_never_opened_can_be_closed(settings, path):
    Inbox(path, settings).close()


def test_a_probe_writes_and_keeps_nothing(settings, path):
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


KEEPER = """
import asyncio, itertools, sys
from datetime import UTC, datetime
from pathlib import Path
from ingest.wire.envelope import Envelope, Kind
from ingest.inbox.inbox import Inbox
from ingest.config.settings import load_settings

async def keep_for_ever(inbox, lane):
    for number in itertools.count():
        body = f"{lane}-{number}"
        await inbox.insert(Envelope(Kind.EVENTS, body.encode(), datetime.now(UTC), "current", None, {}))
        print(body, flush=True)

async def main():
    inbox = Inbox(Path(sys.argv[1]), load_settings(plugsurfing_hmac_current="the-current-key"))
    inbox.start()
    await asyncio.gather(*[keep_for_ever(inbox, lane) for lane in range(8)])

asyncio.run(main())
"""


def test_nothing_that_was_kept_is_missing_after_a_kill(path):
    keeper = subprocess.Popen([sys.executable, "-c", KEEPER, str(path)], stdout=subprocess.PIPE)
    said = [keeper.stdout.readline() for _ in range(300)]
    keeper.kill()
    said += keeper.stdout.read().splitlines(keepends=True)
    keeper.wait()
    keeper.stdout.close()

    promised = {line.strip() for line in said if line.endswith(b"\n")}
    assert len(promised) >= 300
    assert promised <= set(bodies(path))


def test_what_was_not_kept_is_no_repeat(settings, path, monkeypatch):
    """Sent again after a failure it is kept, and only then known."""

    def full(*_):
        raise OSError("No space left on device")

    async def story():
        async with opened(settings) as inbox:
            with monkeypatch.context() as failing:
                for name in ("insert_new", "upsert_rows"):
                    failing.setattr(room, name, full)
                with pytest.raises(InboxUnavailable):
                    await inbox.insert(envelope(b"again"))
            assert (await inbox.insert(envelope(b"again"))).duplicate is False
        assert bodies(path) == [b"again"]

    asyncio.run(story())


def test_a_file_that_is_damaged_while_in_use_is_told_of_once(settings, monkeypatch):
    told = []

    def find_damage(*_arguments):
        error = sqlite3.DatabaseError("database disk image is malformed")
        error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
        raise error

    async def story():
        async with opened(settings) as inbox:
            inbox.on_corruption(lambda: told.append(True))
            await inbox.insert(envelope())
            monkeypatch.setattr(room, "insert_new", find_damage)
            for _ in range(2):
                with pytest.raises(InboxUnavailable):
                    await inbox.insert(envelope())

    asyncio.run(story())
    assert told == [True]
