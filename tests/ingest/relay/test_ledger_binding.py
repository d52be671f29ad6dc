import sqlite3
from contextlib import closing

import psycopg
import pytest
import redis

from ingest.config.settings import load_settings
from ingest.errors import LedgerUnknown, QueueUnavailable
from ingest.queue.batch import batch_key
from ingest.queue.installations import Installation, announce
from ingest.queue.namespace import NamespacedRedis
from ingest.queue.redis_client import queue
from ingest.relay.ledger_binding import LedgerBinding
from ingest.relay.outbox import Binding, Outbox
from ingest.relay.publisher import BatchPublisher

STORED = "CREATE TABLE ledger_identity (only_ INTEGER, id TEXT)"
ELSEWHERE = Installation("b2", "b2", "there")


def make_ledger(file, ledger_id):
    file.unlink(missing_ok=True)
    with closing(sqlite3.connect(file)) as ledger:
        ledger.execute(STORED)
        ledger.execute("INSERT INTO ledger_identity VALUES (1, ?)", (ledger_id,))
        ledger.commit()


def make_postgresql_ledger(url, ledger_id):
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as ledger:
        ledger.execute("DROP TABLE IF EXISTS ledger_identity")
        ledger.execute(STORED)
        ledger.execute("INSERT INTO ledger_identity VALUES (1, %s)", (ledger_id,))


@pytest.fixture
def outbox(inbox_file):
    with closing(Outbox(inbox_file.path)) as opened:
        yield opened


@pytest.fixture
def publish(inbox_file, outbox, settings):
    """Publish a batch of three, and return its id."""

    def send(connection):
        inbox_file.insert(3)
        BatchPublisher(outbox, connection, settings).publish([outbox.next_batch("sessions", 9, 9999)])
        (batch_id,) = queue("sessions", connection).job_ids
        return batch_id

    return send


@pytest.fixture
def plain(valkey):
    return valkey.plain


@pytest.fixture
def resolve(outbox, plain, settings_with):
    """Resolve the namespace as a process does that has just started with these settings."""

    def start(**given):
        return LedgerBinding(outbox, settings_with(**given)).resolve(plain)

    return start


@pytest.fixture
def settings_with(tmp_path, monkeypatch):
    monkeypatch.delenv("QUEUE_NAMESPACE")
    return lambda **given: load_settings(data_dir=tmp_path, **given)


def test_the_ledger_beside_the_inbox_is_the_one(resolve, outbox, plain, tmp_path):
    announce(plain, ELSEWHERE)
    make_ledger(tmp_path / "ledger.db", "a1")
    assert resolve() == "a1"
    assert outbox.binding() == Binding("a1", "a1")


def test_a_ledger_made_anew_beside_the_inbox_is_followed(resolve, tmp_path):
    make_ledger(tmp_path / "ledger.db", "a1")
    resolve()
    make_ledger(tmp_path / "ledger.db", "a2")
    assert resolve() == "a2"


@pytest.mark.parametrize("others", [(), (ELSEWHERE,)])
def test_without_its_ledger_a_new_inbox_publishes_to_nobody(resolve, plain, tmp_path, others):
    for each in others:
        announce(plain, each)
    with pytest.raises(LedgerUnknown, match="QUEUE_NAMESPACE") as raised:
        resolve(database_url=f"sqlite:///{tmp_path}/elsewhere/ledger.db")
    assert ("(b2)" in str(raised.value)) is bool(others)


def test_serve_without_a_database_does_not_take_the_only_installation_for_its_own(resolve, outbox, plain):
    announce(plain, ELSEWHERE)
    with pytest.raises(LedgerUnknown, match=r"Set DATABASE_URL.*\(b2\)"):
        resolve()
    assert outbox.binding() is None


def test_once_bound_neither_ledger_nor_worker_need_be_there(resolve, plain, tmp_path):
    make_ledger(tmp_path / "ledger.db", "a1")
    resolve()
    (tmp_path / "ledger.db").unlink()
    announce(plain, ELSEWHERE)
    assert resolve() == "a1"


def test_the_ledger_in_postgresql_is_asked_whatever_the_url_looks_like(resolve, postgres_url, outbox):
    make_postgresql_ledger(postgres_url, "a1")
    assert resolve(database_url=postgres_url) == "a1"
    assert resolve(database_url="postgresql://me@127.0.0.1:1/moved") == "a1"
    assert outbox.binding() == Binding("a1", "a1")


def test_another_ledger_at_the_same_url_is_refused_until_that_is_meant(resolve, postgres_url):
    make_postgresql_ledger(postgres_url, "a1")
    resolve(database_url=postgres_url)
    make_postgresql_ledger(postgres_url, "b2")
    with pytest.raises(LedgerUnknown, match=r"is b2.*published to a1.*QUEUE_NAMESPACE=b2"):
        resolve(database_url=postgres_url)
    assert resolve(database_url=postgres_url, queue_namespace="b2") == "b2"
    assert resolve(database_url=postgres_url) == "b2"


def test_a_database_without_our_tables_is_waited_for(resolve, postgres_url):
    with pytest.raises(LedgerUnknown, match="cannot be asked for its id"):
        resolve(database_url=postgres_url)


def test_a_namespace_of_its_own_is_used_without_asking(resolve, outbox):
    assert resolve(queue_namespace="prod") == "prod"
    assert outbox.binding() == Binding("prod", None)


def test_workers_that_set_a_namespace_are_found_by_their_ledger(resolve, plain, tmp_path):
    make_ledger(tmp_path / "ledger.db", "a1")
    assert resolve() == "a1"
    announce(plain, Installation("prod", "a1", "here"))
    assert resolve() == "prod"
    plain.flushall()
    assert resolve() == "prod"


def test_copies_of_a_ledger_in_two_namespaces_are_not_guessed_between(resolve, plain, tmp_path):
    make_ledger(tmp_path / "ledger.db", "a1")
    announce(plain, Installation("prod", "a1", "here"))
    announce(plain, Installation("copy", "a1", "there"))
    with pytest.raises(LedgerUnknown, match="copy or prod"):
        resolve()


def test_another_ledger_in_the_namespace_of_an_inbox_is_refused(resolve, plain):
    announce(plain, Installation("prod", "a1", "here"))
    assert resolve(queue_namespace="prod") == "prod"
    plain.flushall()
    announce(plain, Installation("prod", "b2", "there"))
    with pytest.raises(LedgerUnknown, match=r"b2.*QUEUE_NAMESPACE=prod.*a1"):
        resolve(queue_namespace="prod")
    announce(plain, Installation("prod", "a1", "here"))
    assert resolve(queue_namespace="prod") == "prod"


def test_what_is_in_flight_elsewhere_waits_again_and_leaves_nothing_behind(resolve, publish, outbox, plain, tmp_path):
    make_ledger(tmp_path / "ledger.db", "a1")
    former = NamespacedRedis(plain, resolve())
    batch_id = publish(former)
    make_ledger(tmp_path / "ledger.db", "a2")
    assert resolve() == "a2"
    assert outbox.waiting_count() == 3
    assert not former.exists(batch_key(batch_id), f"rq:job:{batch_id}")
    assert queue("sessions", former).job_ids == []


def test_what_an_earlier_version_has_published_without_a_namespace_waits_again(
    resolve, publish, outbox, plain, tmp_path
):
    batch_id = publish(plain)
    plain.rename(batch_key(batch_id), f"webhooks:{batch_key(batch_id)}")
    make_ledger(tmp_path / "ledger.db", "a1")
    resolve()
    assert outbox.waiting_count() == 3
    assert plain.keys() == [b"rq:queues"]


def test_without_redis_the_queues_are_unavailable(outbox, settings):
    with pytest.raises(QueueUnavailable):
        LedgerBinding(outbox, settings).resolve(redis.Redis(port=1))
