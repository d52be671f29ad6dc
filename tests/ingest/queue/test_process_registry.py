"""The registry of processes, on a real Valkey."""

import json
from dataclasses import replace

import pytest
import redis
from structlog.testing import capture_logs

from ingest.errors import QueueUnavailable
from ingest.queue import process_registry
from ingest.queue.namespace import NamespacedRedis
from ingest.queue.process_registry import KEY, NodeReport, ProcessRecord, ProcessRegistry, ProcessType
from ingest.queue.redis_client import connect_redis


def record(process: ProcessType = ProcessType.WORK, **parts: object) -> ProcessRecord:
    return replace(ProcessRecord.of_this_process(process), **parts)  # type: ignore[arg-type]


def test_a_process_that_reports_itself_is_alive_with_all_that_it_reported(valkey: redis.Redis) -> None:
    node = NodeReport({"There is no signature.": 3}, {"urgent": 0.5}, 7, 0.25, 1.5)
    reported = record(queues=("urgent",), outdated=("a.py",), node=node)
    registry = ProcessRegistry(valkey)
    assert registry.is_due
    assert registry.beat(reported) == []
    assert not registry.is_due
    (found,) = registry.processes()
    assert replace(found, started_at=0, beat_at=0, age=0) == reported
    assert found.is_alive
    assert found.started_at == found.beat_at > 0
    (before,) = registry.beat(reported)
    assert before.id == reported.id


def test_what_an_older_version_does_not_report_of_its_inbox_is_unknown(valkey: NamespacedRedis) -> None:
    registry = ProcessRegistry(valkey)
    registry.beat(record(ProcessType.SERVE, node=NodeReport({}, {"urgent": 0.5})))
    ((name, text),) = valkey.hgetall(KEY).items()
    fields = json.loads(text)
    del fields["node"]["waiting"], fields["node"]["oldest_waiting"], fields["node"]["oldest_erasure"]
    valkey.hset(KEY, name, json.dumps(fields))
    (found,) = registry.processes()
    assert found.node == NodeReport({}, {"urgent": 0.5}, None, None)


def test_the_start_of_a_process_survives_a_redis_that_lost_everything(valkey: redis.Redis) -> None:
    registry = ProcessRegistry(valkey)
    registry.beat(record())
    (first,) = registry.processes()
    valkey.flushall()
    registry.beat(record())
    (second,) = registry.processes()
    assert second.started_at == first.started_at
    assert second.beat_at > first.beat_at


def test_a_process_that_stops_is_known_to_have_stopped(valkey: redis.Redis) -> None:
    registry = ProcessRegistry(valkey)
    registry.beat(record())
    registry.stop(record())
    (found,) = registry.processes()
    assert found.is_stopped
    assert not found.is_alive


def test_a_process_is_not_alive_after_a_while_and_forgotten_after_a_long_one(
    valkey: NamespacedRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = valkey.plain
    ProcessRegistry(plain).beat(record(id="dead"))

    class Later(redis.client.Pipeline):
        ahead = 0.0

        def execute(self, *arguments: object, **options: object) -> list[object]:
            found = super().execute(*arguments, **options)  # type: ignore[arg-type]
            return [(one[0] + self.ahead, one[1]) if isinstance(one, tuple) else one for one in found]

    monkeypatch.setattr(
        plain, "pipeline", lambda **_: Later(plain.connection_pool, plain.response_callbacks, None, None)
    )
    registry = ProcessRegistry(plain)
    Later.ahead = 10.0
    assert [each.is_alive for each in registry.processes()] == [True]
    Later.ahead = 30.0
    assert [each.is_alive for each in registry.processes()] == [False]
    Later.ahead = process_registry.FORGOTTEN_AFTER.total_seconds() + 5
    registry.beat(record(id="new"))
    assert [each.id for each in registry.processes()] == ["new"]


@pytest.mark.parametrize(
    "text", ["no JSON", "{}", '{"process": "unknown"}', '{"process": "work"}', "[1]", '{"process": "work", "node": 1}']
)
def test_what_another_version_wrote_is_left_out(valkey: redis.Redis, text: str) -> None:
    registry = ProcessRegistry(valkey)
    registry.beat(record())
    valkey.hset(KEY, "other", text)
    assert [each.process for each in registry.processes()] == [ProcessType.WORK]


def test_a_redis_that_does_not_answer_is_an_error_of_the_queue_and_stopping_only_logs_it() -> None:
    with connect_redis("unix:///nowhere") as connection:
        registry = ProcessRegistry(connection)
        with pytest.raises(QueueUnavailable, match="ConnectionError"):
            registry.processes()
        with pytest.raises(QueueUnavailable, match="ConnectionError"):
            registry.beat(record())
        with capture_logs() as logs:
            registry.stop(record())
    assert [line["event"] for line in logs] == ["process.end_unreported"]
