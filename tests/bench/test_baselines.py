from redis import Redis
from rq import Queue
from sqlalchemy import func, select
from starlette.testclient import TestClient

from ingest.wire.signature import SIGNATURE_HEADER, sign
from tests.bench import baselines
from tests.bench.baselines import DATABASE_VARIABLE, KEY_VARIABLE, REDIS_VARIABLE, USUAL_QUEUE, empty, store_one
from tests.bench.http_load import bodies
from workers.ledger.database.engine import create_ledger_engine, read_only
from workers.ledger.database.migrate import migrate
from workers.ledger.tables.core_tables import deliveries, sessions

PATH = "/plugsurfing/events"


def test_the_ceiling_responds_and_does_nothing():
    response = TestClient(empty()).post(PATH, content=b"{}")
    assert (response.status_code, response.content) == (200, b"")


def test_the_usual_recipe_verifies_and_enqueues_one_job_a_request(monkeypatch, valkey_url):
    monkeypatch.setenv(REDIS_VARIABLE, valkey_url)
    monkeypatch.setenv(KEY_VARIABLE, "key")
    client = TestClient(baselines.enqueue_per_request(), raise_server_exceptions=False)
    for body in bodies("seed", 2):
        assert client.post(PATH, content=body, headers={SIGNATURE_HEADER: sign(body, b"key")}).status_code == 200
    assert client.post(PATH, content=b"{}", headers={SIGNATURE_HEADER: sign(b"{}", b"another")}).status_code == 500
    with Redis.from_url(valkey_url) as connection:
        (first, second) = Queue(USUAL_QUEUE, connection=connection).jobs
    assert (first.func_name, second.func_name) == (baselines.STORE_ONE,) * 2
    assert [job.args[0] for job in (first, second)] == list(bodies("seed", 2))


def test_a_job_stores_its_event_and_merges_it_into_its_session(monkeypatch, tmp_path):
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    migrate(url)
    monkeypatch.setenv(DATABASE_VARIABLE, url)
    for body in bodies("seed", 6):
        store_one(body)
    engine = create_ledger_engine(url)
    with read_only(engine) as ledger:
        counts = [ledger.scalar(select(func.count()).select_from(table)) for table in (deliveries, sessions)]
    engine.dispose()
    assert counts == [6, 2]
