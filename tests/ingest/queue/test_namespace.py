import pytest
from redis import WatchError
from rq import Queue, SimpleWorker
from rq.serializers import JSONSerializer
from rq.worker import Worker

from ingest.queue.namespace import COUNTED_KEYS, UNSUPPORTED, NamespacedRedis, with_prefix
from ingest.queue.redis_client import queue


@pytest.fixture
def neighbour(valkey):
    """The same Redis, in another namespace."""
    return NamespacedRedis(valkey.plain, "neighbour")


@pytest.fixture
def run(valkey):
    """Work a queue until it is empty."""

    def work(name, connection):
        SimpleWorker([queue(name, connection)], connection=connection, serializer=JSONSerializer).work(burst=True)

    return work


def test_all_that_rq_writes_is_in_the_namespace(valkey, run):
    failing = queue("urgent", valkey).enqueue("os.stat", "no-such-file")
    done = queue("urgent", valkey).enqueue("os.getpid")
    run("urgent", valkey)
    assert (failing.get_status(), done.get_status()) == ("failed", "finished")
    assert failing.latest_result().exc_string
    keys = [key.decode() for key in valkey.plain.scan_iter()]
    assert len(keys) > 5
    assert [key for key in keys if not key.startswith("webhooks:test:rq:")] == []


def test_jobs_of_a_neighbour_are_not_seen(valkey, neighbour, run):
    job = queue("urgent", valkey).enqueue("os.getpid")
    run("urgent", neighbour)
    run("urgent", valkey.plain)
    assert job.get_status() == "queued"
    assert [each.name for each in Queue.all(connection=valkey)] == ["urgent"]
    assert Queue.all(connection=neighbour) == Queue.all(connection=valkey.plain) == []
    run("urgent", valkey)
    assert job.get_status() == "finished"


def test_workers_of_a_neighbour_are_not_counted(valkey, neighbour):
    worker = SimpleWorker([queue("urgent", neighbour)], connection=neighbour, serializer=JSONSerializer)
    worker.register_birth()
    assert (Worker.count(neighbour), Worker.count(valkey), Worker.count(valkey.plain)) == (1, 0, 0)


def test_a_neighbour_that_suspends_its_workers_does_not_suspend_ours(valkey, run):
    valkey.plain.set("rq:suspended", 1)
    job = queue("urgent", valkey).enqueue("os.getpid")
    run("urgent", valkey)
    assert job.get_status() == "finished"


def test_keys_are_given_and_returned_without_the_namespace(valkey, neighbour):
    for each in (valkey, neighbour):
        each.rpush("list", "one", each.namespace)
        each.set("key", each.namespace)
    assert valkey.blpop(["none", "list"], 1) == (b"list", b"one")
    assert valkey.lmove("list", "other") == b"test"
    assert valkey.blmove("other", "list", 1) == b"test"
    assert valkey.mget(["key", b"list:none", "none"]) == [b"test", None, None]
    assert sorted(valkey.keys("*")) == sorted(valkey.scan_iter("*")) == sorted(valkey.scan_iter()) == [b"key", b"list"]
    assert valkey.eval("return {KEYS[1], redis.call('get', KEYS[2]), ARGV[1]}", 2, "a", "key", "b") == [
        b"webhooks:test:a",
        b"test",
        b"b",
    ]
    assert (valkey.exists("key", "list"), valkey.delete("key", "list"), valkey.exists("key")) == (2, 2, 0)
    assert neighbour.get("key") == b"neighbour"
    assert valkey.blpop(["list"], 0.01) is None


def test_streams_are_read_in_the_namespace(valkey, neighbour):
    valkey.xadd("stream", {"field": "value"}, id="1-1")
    assert valkey.xread({"stream": "0"}, count=1)[0][1] == [(b"1-1", {b"field": b"value"})]
    assert neighbour.xread({"stream": "0"}) in ([], {})


def test_a_pipeline_is_in_the_namespace(valkey, neighbour):
    with valkey.pipeline() as pipe:
        pipe.watch("key")
        assert pipe.get("key") is None
        neighbour.set("key", 1)
        pipe.multi()
        pipe.set("key", 2)
        assert pipe.execute() == [True]
        pipe.watch("key")
        valkey.set("key", 3)
        pipe.multi()
        pipe.delete("key")
        with pytest.raises(WatchError):
            pipe.execute()
    assert (valkey.get("key"), neighbour.get("key")) == (b"3", b"1")


@pytest.mark.parametrize("command", ["MSET", "BITOP", "ZUNIONSTORE"])
def test_a_command_whose_keys_are_not_known_is_refused(valkey, command):
    with pytest.raises(ValueError, match=command):
        valkey.execute_command(command, "a", "b", "c")


def test_a_server_says_the_same_of_the_keys_of_its_commands(valkey):
    commands = {name.upper(): each for name, each in valkey.plain.command().items() if not each["subcommands"]}
    assert len(commands) > 200
    with_patterns = {"KEYS", "SCAN"}
    for name in commands.keys() - UNSUPPORTED - with_patterns:
        flags = set(commands[name]["flags"])
        if "movablekeys" in flags:
            assert name in COUNTED_KEYS | {"XREAD"}
        elif not flags & {"admin", "pubsub"}:
            assert (name, positions_with_prefix(name)) == (name, positions_of_keys(commands[name]))


def positions_with_prefix(name):
    """The positions that get a prefix among five arguments."""
    args = with_prefix("ours:", (name, "1", "2", "3", "4", "5"))
    return [index for index, arg in enumerate(args) if arg.startswith("ours:")]


def positions_of_keys(described):
    """The positions that the server takes for keys, of six."""
    first, last, step = (described[name] for name in ("first_key_pos", "last_key_pos", "step_count"))
    return list(range(first, last + 1 if last >= 0 else last + 7, step)) if first else []
