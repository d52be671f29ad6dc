"""The metrics of the installation are served beside the clock, cheaply, and never at its expense."""

import socket
import threading

import httpx
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import GaugeMetricFamily
from structlog.testing import capture_logs

from ingest.config.settings import load_settings
from workers.ledger.database.engine import create_ledger_engine
from workers.ledger.tables import metadata
from workers.observability import metrics_server
from workers.observability.metrics_server import (
    CachedCollector,
    MetricsServer,
    create_metrics_app,
    installation_registry,
)


@pytest.fixture
def served(valkey, tmp_path, until):
    """Serve the metrics of an empty installation; yield a client."""
    engine = create_ledger_engine(f"sqlite:///{tmp_path}/ledger.db", creates_file=True)
    metadata.create_all(engine)
    server = MetricsServer(
        create_metrics_app(installation_registry(engine, valkey)),
        load_settings().model_copy(update={"metrics_port": 0}),
    )
    server.start()
    until(lambda: server.port)
    with httpx.Client(base_url=f"http://127.0.0.1:{server.port}", trust_env=False) as client:
        yield client
    server.stop()
    engine.dispose()


def test_ledger_queues_and_this_process_are_served(served, parsed):
    response = served.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    numbers = parsed(response.text)
    assert numbers["webhooks_ledger_up",] == numbers["webhooks_redis_up",] == 1
    assert numbers["process_resident_memory_bytes",] > 0
    assert served.get("/healthz").json() == {"status": "ok"}
    assert served.get("/other").status_code == 404


class Counting:
    def __init__(self):
        self.collected = 0
        self.may_end = threading.Event()
        self.may_end.set()

    def collect(self):
        self.collected += 1
        self.may_end.wait(20)
        yield GaugeMetricFamily("n", "n", value=self.collected)


def test_however_often_they_are_asked_for_the_stores_are_read_once_in_a_while():
    now = [0.0]
    stores = Counting()
    cached = CachedCollector([stores], clock=lambda: now[0])
    read = [next(iter(cached.collect())).samples[0].value for _ in range(3)]
    now[0] += metrics_server.CACHE_FOR.total_seconds()
    assert [*read, next(iter(cached.collect())).samples[0].value] == [1, 1, 1, 2]


def test_those_who_ask_at_the_same_time_share_one_reading(until):
    stores = Counting()
    stores.may_end.clear()
    cached = CachedCollector([stores])
    threads = [threading.Thread(target=lambda: list(cached.collect())) for _ in range(5)]
    for each in threads:
        each.start()
    until(lambda: stores.collected)
    stores.may_end.set()
    for each in threads:
        each.join()
    assert stores.collected == 1


def test_a_port_that_is_taken_is_tried_again_until_it_is_free(monkeypatch, until):
    monkeypatch.setattr(metrics_server, "BACKOFF", metrics_server.Backoff(*[metrics_server.timedelta(0.0000001)] * 2))
    with capture_logs() as lines, socket.create_server(("127.0.0.1", 0)) as other_clock:
        server = MetricsServer(
            create_metrics_app(CollectorRegistry()), load_settings(metrics_port=other_clock.getsockname()[1])
        )
        server.start()
        until(lambda: lines)
        other_clock.close()
        until(lambda: server.port)
        server.stop()
    assert [line["event"] for line in lines] == ["metrics.not_served", "metrics.listening"]
    assert server.port is None
