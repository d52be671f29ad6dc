import asyncio
import contextlib
import itertools
import os
import subprocess
from datetime import UTC, datetime
from types import SimpleNamespace

import httpx
import pytest
from structlog.testing import capture_logs

from ingest.errors import InboxUnavailable
from ingest.http.app import PATHS, create_app
from ingest.inbox import disk_reserve as disk_reserve_module
from ingest.inbox.disk_reserve import DiskReserve
from ingest.inbox.inbox import Inbox
from ingest.inbox.quarantine import Quarantine
from ingest.inbox.quarantined_request import Authorization, QuarantinedRequest
from ingest.inbox.schema import FILE_NAME, open_inbox_file
from ingest.queue.batch import new_batch_id
from ingest.relay.outbox import Outbox
from ingest.wire.envelope import Envelope, Kind
from ingest.wire.signature import sign

MIB = 1_048_576
RESERVE = 16 * MIB
KEY = b"the-current-key"
NUMBERS = itertools.count()


class Disk:
    """A disk with as much space as the test sets, which counts how often it is checked."""

    def __init__(self):
        self.free = 1000 * MIB
        self.asked = 0

    def statvfs(self, _path):
        self.asked += 1
        return SimpleNamespace(f_frsize=4096, f_bavail=self.free // 4096, f_bfree=10**9, f_bsize=1)


@pytest.fixture
def disk(monkeypatch):
    made = Disk()
    monkeypatch.setattr(os, "statvfs", made.statvfs)
    return made


@pytest.fixture
def always(monkeypatch):
    """Check the disk each time."""
    monkeypatch.setattr(disk_reserve_module, "RECHECK_EVERY", 0.0)


@pytest.fixture
def path(settings):
    return settings.data_dir / FILE_NAME


@pytest.fixture
def file(path):
    with contextlib.closing(open_inbox_file(path)) as opened:
        yield opened


@pytest.fixture
def reserve(path, settings):
    return DiskReserve(path, settings)


def envelope(body=b""):
    return Envelope(Kind.EVENTS, b"%d %b" % (next(NUMBERS), body), datetime.now(UTC), "current", None, {})


@contextlib.asynccontextmanager
async def opened(settings):
    inbox = Inbox(settings.data_dir / FILE_NAME, settings)
    await asyncio.to_thread(inbox.start)
    try:
        yield inbox
    finally:
        await asyncio.to_thread(inbox.close)


def test_the_reserve_is_not_used_for_deliveries(reserve, file, disk, always):
    disk.free = RESERVE + MIB
    reserve.reserve(file, 1000)
    disk.free = RESERVE - MIB
    with pytest.raises(InboxUnavailable, match="DISK_RESERVE"):
        reserve.reserve(file, 1000)
    disk.free = RESERVE + MIB
    reserve.reserve(file, 1000)


def test_space_beyond_the_reserve_may_be_used(reserve, path, file, disk, always):
    log = path.with_name(f"{FILE_NAME}-wal").stat().st_size
    due = file.execute("PRAGMA page_count").fetchone()[0] * 4096 - path.stat().st_size
    disk.free = RESERVE + MIB - log + due
    reserve.reserve(file, MIB - 4096)
    with pytest.raises(InboxUnavailable):
        reserve.reserve(file, MIB + 1)


def test_the_disk_is_checked_at_intervals(reserve, file, disk, monkeypatch):
    for _ in range(1000):
        reserve.reserve(file, 1000)
    assert disk.asked == 1
    monkeypatch.setattr(disk_reserve_module, "RECHECK_EVERY", 0.0)
    reserve.reserve(file, 1000)
    assert disk.asked == 2


def test_a_full_disk_is_not_checked_more_often(reserve, file, disk):
    disk.free = 0
    for _ in range(100):
        with pytest.raises(InboxUnavailable):
            reserve.reserve(file, 1000)
    assert disk.asked == 1


def test_a_large_write_has_the_disk_checked_first(reserve, file, disk):
    disk.free = RESERVE + 160 * MIB
    reserve.reserve(file, MIB)
    disk.free = 0
    for _ in range(9):
        reserve.reserve(file, MIB)
    with pytest.raises(InboxUnavailable):
        reserve.reserve(file, MIB)


def test_unused_pages_of_the_file_count_as_space(reserve, file, disk, always):
    """Settled rows do not make the file shorter."""
    disk.free = RESERVE - 4 * MIB
    with pytest.raises(InboxUnavailable):
        reserve.reserve(file, 1000)
    file.execute("INSERT INTO meta VALUES ('large', zeroblob(?))", (8 * MIB,))
    file.execute("DELETE FROM meta WHERE name = 'large'")
    reserve.reserve(file, 1000)


def test_unused_pages_do_not_count_if_the_log_cannot_grow(reserve, file, disk, always):
    file.execute("INSERT INTO meta VALUES ('large', zeroblob(?))", (32 * MIB,))
    file.execute("DELETE FROM meta WHERE name = 'large'")
    file.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    disk.free = RESERVE // 2 - 4096
    with pytest.raises(InboxUnavailable):
        reserve.reserve(file, 1000)
    disk.free = RESERVE // 2
    reserve.reserve(file, 1000)


def test_without_a_reserve_the_disk_is_not_checked(path, settings, file, disk):
    disk.free = 0
    DiskReserve(path, settings.model_copy(update={"disk_reserve": 0})).reserve(file, 1000)
    assert disk.asked == 0


def test_the_inbox_refuses_on_a_full_disk_and_recovers_by_itself(settings, disk, always):
    async def story():
        async with opened(settings) as inbox:
            await inbox.insert(envelope())
            disk.free = RESERVE - MIB
            for wanted in (lambda: inbox.insert(envelope()), inbox.probe):
                with pytest.raises(InboxUnavailable):
                    await wanted()
            assert "DISK_RESERVE" in inbox.problem
            disk.free = RESERVE + MIB
            await inbox.insert(envelope())
            assert inbox.problem is None

    with capture_logs() as logs:
        asyncio.run(story())
    assert [line["event"] for line in logs] == ["inbox.failed", "inbox.recovered"]


def test_the_quarantine_does_not_use_the_reserve_either(path, settings, disk, always):
    quarantine = Quarantine(path, settings)
    refused = QuarantinedRequest(0, Kind.EVENTS, datetime.now(UTC), "no", (), Authorization.NOT_ASKED, b"{}")
    disk.free = 0
    with pytest.raises(InboxUnavailable):
        quarantine.add([refused])
    assert quarantine.add([]) == 0  # expired requests may be deleted
    disk.free = RESERVE + MIB
    quarantine.add([refused])
    assert len(quarantine.list()) == 1


def test_a_node_with_a_full_disk_is_not_ready_and_reports_the_reason(settings, serving, disk, always, monkeypatch):
    monkeypatch.setattr("ingest.http.health.CACHE_FOR", 0.0)
    url = f"http://127.0.0.1:{serving(create_app(settings))}"

    def statuses():
        answer = httpx.post(
            url + PATHS[Kind.EVENTS], content=b"{}", headers={"X-HMAC-SHA512-Signature": sign(b"{}", KEY)}
        )
        ready = httpx.get(url + "/readyz")
        return answer.status_code, ready.status_code, ready.json()["inbox"]["error"]

    disk.free = RESERVE - MIB
    problem = "InboxUnavailable: The disk has no room left but DISK_RESERVE."
    assert statuses() == (503, 503, problem)
    disk.free = RESERVE + MIB
    assert statuses() == (200, 200, None)


@pytest.fixture
def small_disk(tmp_path):
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", str(folder)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no disk can be mounted here")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_can_be_settled_and_filled_again(settings, small_disk, always):
    settings = settings.model_copy(update={"data_dir": small_disk})

    async def fill(inbox):
        for number in range(10_000):
            try:
                await asyncio.gather(*[inbox.insert(envelope(bytes(20_000))) for _ in range(20)])
            except InboxUnavailable:
                return number
        raise AssertionError("the disk was never full")

    def settle_everything(outbox):
        """Assign, split and settle as the relay does."""
        settled = 0
        while (load := outbox.next_batch("other", settings.batch_deliveries, settings.batch_bytes)).seqs:
            outbox.assign([(new_batch_id(), load)])
        for each in outbox.in_flight():
            (half, rest) = outbox.rows_of(each.batch_id).split()
            ids = [new_batch_id(), new_batch_id()]
            outbox.split(each.batch_id, list(zip(ids, (half, rest), strict=True)), deaths=0)
            settled += outbox.settle(ids)
        return settled

    async def story():
        async with opened(settings) as inbox:
            with contextlib.closing(Outbox(small_disk / FILE_NAME)) as outbox:
                for _ in range(3):
                    groups = await fill(inbox)
                    assert "DISK_RESERVE" in inbox.problem
                    assert settle_everything(outbox) == groups * 20 > 200

    asyncio.run(story())
