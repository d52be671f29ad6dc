import threading

import pytest
import structlog

from ingest.config.settings import load_settings
from ingest.errors import SettingsError
from ingest.queue.installations import Installation, announce, list_installations
from workers.installation import LedgerTooNew, announce_quietly, join_installation, open_queues, own_installation
from workers.ledger.database.engine import create_ledger_engine
from workers.ledger.database.migrate import migrate
from workers.ledger.identity import ledger_id


@pytest.fixture
def settings(tmp_path, valkey_url, monkeypatch):
    monkeypatch.delenv("QUEUE_NAMESPACE")
    return load_settings(data_dir=tmp_path, redis_url=valkey_url)


@pytest.fixture
def engine(settings):
    made = create_ledger_engine(settings.database_url)
    yield made
    made.dispose()


def test_the_queues_are_in_the_namespace_of_the_ledger(settings, engine):
    migrate(settings.database_url)
    with open_queues(settings, engine) as connection:
        assert connection.namespace == ledger_id(engine)
    named = settings.model_copy(update={"queue_namespace": "prod"})
    with open_queues(named, engine) as connection:
        assert connection.namespace == "prod"


def test_a_process_that_joins_announces_its_installation(settings, engine, valkey):
    migrate(settings.database_url)
    connection, own = join_installation(settings, engine)
    connection.close()
    (announced,) = list_installations(valkey.plain)
    assert announced.field == own.field
    assert (own.namespace, own.ledger) == (ledger_id(engine), ledger_id(engine))


def test_a_process_waits_for_its_ledger_and_says_so(settings, engine, until):
    joined = []
    with structlog.testing.capture_logs() as logs:
        thread = threading.Thread(target=lambda: joined.append(join_installation(settings, engine)))
        thread.start()
        until(lambda: any(line["event"] == "ledger.waiting" for line in logs))
        migrate(settings.database_url)
        thread.join(30)
    assert joined
    assert "webhooks migrate" in logs[0]["hint"]


def test_a_new_version_waits_for_its_migrations(settings, engine, until):
    migrate(settings.database_url, until="0016")
    joined = []
    with structlog.testing.capture_logs() as logs:
        thread = threading.Thread(target=lambda: joined.append(join_installation(settings, engine)))
        thread.start()
        until(lambda: any(line["event"] == "ledger.waiting" for line in logs))
        assert joined == []
        migrate(settings.database_url)
        thread.join(30)
    assert joined


def test_a_version_that_is_too_old_for_the_ledger_does_not_start(settings, engine, valkey):
    migrate(settings.database_url)
    with engine.begin() as conn:
        conn.exec_driver_sql("UPDATE webhooks_schema_version SET version_num = '9999'")
    join_installation(settings, engine)
    with engine.begin() as conn:
        conn.exec_driver_sql("UPDATE ledger_identity SET compatible_from = '9999'")
    with pytest.raises(LedgerTooNew, match="install the newer version again"):
        join_installation(settings, engine)


@pytest.mark.parametrize("other", [{"ledger": "-"}, {"storage": "-"}])
def test_a_worker_of_another_ledger_in_the_namespace_does_not_start(settings, engine, valkey, other):
    migrate(settings.database_url)
    named = settings.model_copy(update={"queue_namespace": "prod"})
    own = own_installation(named, engine)
    fields = {name: getattr(own, name) for name in ("namespace", "ledger", "storage")} | other
    # In the same second, the lesser name counts as the earlier: "-" is less than any id.
    announce(valkey.plain, Installation(**fields))
    with pytest.raises(SettingsError, match=r"namespace prod .*QUEUE_NAMESPACE"):
        join_installation(named, engine)
    assert len(list_installations(valkey.plain)) == 1


def test_an_announcement_comes_back_when_redis_was_flushed(settings, engine, valkey):
    migrate(settings.database_url)
    connection, own = join_installation(settings, engine)
    valkey.flushall()
    announce_quietly(connection, own)
    connection.close()
    assert [each.field for each in list_installations(valkey.plain)] == [own.field]


def test_workers_do_not_start_on_a_redis_that_would_delete_jobs(settings, engine, valkey):
    migrate(settings.database_url)
    valkey.config_set("maxmemory-policy", "allkeys-lru")
    try:
        with structlog.testing.capture_logs() as logs:
            join_installation(settings, engine)[0].close()  # without a limit nothing is deleted
        assert [line["event"] for line in logs] == ["redis.evicts"]
        valkey.config_set("maxmemory", "1gb")
        with pytest.raises(SettingsError, match=r"maxmemory-policy of Redis is allkeys-lru.*noeviction"):
            join_installation(settings, engine)
        assert not [each for each in list_installations(valkey.plain) if each.is_alive]
    finally:
        valkey.config_set("maxmemory", 0)
        valkey.config_set("maxmemory-policy", "noeviction")
