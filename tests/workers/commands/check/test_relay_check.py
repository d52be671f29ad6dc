"""The line of the relay: whether what is in the inbox is published, how many wait, since when, and what to do."""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
import redis

from ingest.config.settings import load_settings
from ingest.inbox.schema import FILE_NAME
from ingest.queue import process_registry
from ingest.queue.process_registry import KEY, NodeReport, ProcessType
from ingest.relay.relay import Relay
from tests.ingest.conftest import InboxFile, StoppableValkey, eventually, inbox_file, stoppable_valkey
from tests.workers.commands.conftest import Node
from workers.commands.check.processes import check_processes

__all__ = ["eventually", "inbox_file", "stoppable_valkey"]

NOON = datetime(2026, 5, 4, 12, tzinfo=UTC)
SINCE_NOON = "the oldest since 2026-05-04 12:00:00 UTC"

Lines = Callable[..., list[tuple[str, str]]]


@pytest.fixture
def lines(node: Node, valkey_url: str) -> Lines:
    """Check what runs, and return how the relays are."""

    def lines(**changed: str) -> list[tuple[str, str]]:
        settings = load_settings(
            **{"data_dir": node.folder, "database_url": str(node.engine.url), "redis_url": valkey_url, **changed}
        )
        return [(each.status, each.sentence) for each in check_processes(settings) if each.subject == "relay"]

    return lines


@pytest.fixture
def serve(report: Callable[..., None]) -> Callable[..., None]:
    """Report a `serve`, as its relay would."""

    def serve(inbox_id: str, host: str, **parts: object) -> None:
        report(ProcessType.SERVE, id=inbox_id, host=host, **parts)

    return serve


def test_it_says_while_redis_is_away_how_many_wait_since_when_and_what_to_do(
    lines: Lines,
    inbox_file: InboxFile,
    stoppable_valkey: StoppableValkey,
    eventually: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(process_registry, "BEAT_EVERY", timedelta())
    url = stoppable_valkey.url
    settings = load_settings(data_dir=inbox_file.path.parent, redis_url=url)
    relay = Relay(inbox_file.path, settings, sweep_every=timedelta(milliseconds=20))
    relay.start()
    try:
        eventually(lambda: [status for status, _ in lines(redis_url=url)] == ["ok"])
        assert "; nothing waits in the inbox." in lines(redis_url=url)[0][1]
        stoppable_valkey.stop()
        inbox_file.insert(3, received_at=NOON.timestamp())
        ((status, sentence),) = lines(redis_url=url)
        assert status == "fail"
        assert f"3 deliveries wait in the inbox, {SINCE_NOON}" in sentence
        assert "Start Redis, or correct REDIS_URL" in sentence
        stoppable_valkey.start()
        eventually(lambda: [status for status, _ in lines(redis_url=url)] == ["ok"])
        eventually(lambda: "; nothing waits in the inbox." in lines(redis_url=url)[0][1])
    finally:
        relay.stop()


def test_an_inbox_that_no_serve_publishes_fails_once_something_waits(lines: Lines, inbox_file: InboxFile) -> None:
    ((status, sentence),) = lines()
    assert (status, "nothing waits in the inbox" in sentence) == ("warn", True)
    inbox_file.insert(received_at=NOON.timestamp())
    ((status, sentence),) = lines()
    assert (status, f"1 delivery waits in the inbox, {SINCE_NOON}" in sentence) == ("fail", True)
    assert "Start `webhooks serve`" in sentence


def test_a_serve_that_has_ended_or_has_not_reported_is_named_with_when(
    lines: Lines, inbox_file: InboxFile, serve: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    inbox_file.insert()
    serve(inbox_file.inbox_id, "node-1", is_stopped=True)
    ((status, sentence),) = lines()
    assert (status, sentence[:26]) == ("fail", "`serve` on node-1 ended at")
    serve(inbox_file.inbox_id, "node-1")
    monkeypatch.setattr(process_registry, "ALIVE_FOR", timedelta(seconds=-1))
    ((status, sentence),) = lines()
    assert (status, sentence[:40]) == ("fail", "`serve` on node-1 has not published sinc")


def test_what_waits_while_the_workers_are_behind_needs_attention(
    lines: Lines, inbox_file: InboxFile, serve: Callable[..., None]
) -> None:
    serve(inbox_file.inbox_id, "node-1")
    inbox_file.insert(2)
    assert [status for status, _ in lines()] == ["ok"]
    inbox_file.insert(received_at=NOON.timestamp(), queue="urgent")
    ((status, sentence),) = lines()
    assert (status, f"3 deliveries wait in the inbox, {SINCE_NOON}" in sentence) == ("warn", True)
    assert "the workers do not keep up" in sentence


def test_relays_of_other_hosts_are_known_by_their_reports(lines: Lines, serve: Callable[..., None]) -> None:
    serve("one", "node-1", node=NodeReport({}, {}, 2, 0.5))
    serve("two", "node-2", node=NodeReport({}, {}, 1000, None))
    serve("three", "node-3", node=NodeReport({}, {}, 7, time.time() - NOON.timestamp()))
    (well, behind) = lines()
    assert well == ("ok", "It publishes on node-1, node-2; 1,002 deliveries wait in the inbox.")
    assert behind[0] == "warn"
    assert "It publishes on node-3, but 7 deliveries wait in the inbox, the oldest since 2026-05-04" in behind[1]


def test_a_relay_of_another_host_that_died_is_named_with_what_waited(
    lines: Lines, serve: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    serve("one", "node-1", node=NodeReport({}, {}, 2, time.time() - NOON.timestamp()))
    monkeypatch.setattr(process_registry, "ALIVE_FOR", timedelta(seconds=-1))
    ((status, sentence),) = lines()
    assert status == "fail"
    assert "`serve` on node-1 has not published since" in sentence
    assert "2 deliveries wait in the inbox, the oldest since 2026-05-04" in sentence


def test_a_report_of_another_version_leaves_open_how_many_wait(
    lines: Lines, serve: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    serve("one", "node-1")
    assert lines() == [("ok", "It publishes on node-1; nothing is known of how many deliveries wait.")]
    monkeypatch.setattr(process_registry, "ALIVE_FOR", timedelta(seconds=-1))
    ((_, sentence),) = lines()
    assert "how many deliveries wait is not known" in sentence


def test_there_is_a_line_where_nothing_has_been_started(lines: Lines, valkey: redis.Redis, node: Node) -> None:
    valkey.delete(KEY)
    assert not (node.folder / FILE_NAME).exists()
    ((status, sentence),) = lines()
    assert (status, "Start `webhooks serve`" in sentence) == ("warn", True)
    ((status, sentence),) = lines(redis_url="unix:///nowhere")
    assert (status, "cannot be seen" in sentence) == ("warn", True)


def test_without_the_ledger_it_is_not_known_whether_it_publishes(
    lines: Lines, inbox_file: InboxFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("QUEUE_NAMESPACE")
    inbox_file.insert(2, received_at=NOON.timestamp())
    ((status, sentence),) = lines(database_url="postgresql://127.0.0.1:1/x")
    assert (status, f"2 deliveries wait in the inbox, {SINCE_NOON}" in sentence) == ("warn", True)


def test_an_inbox_that_cannot_be_read_is_named(lines: Lines, node: Node) -> None:
    (node.folder / FILE_NAME).write_bytes(b"no database" * 1000)
    ((status, sentence),) = lines()
    assert (status, str(node.folder) in sentence) == ("warn", True)
