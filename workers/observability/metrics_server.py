"""Serves the metrics of workers, clock and ledger on METRICS_PORT, in a thread of the clock."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta

import redis
import structlog
import uvicorn
from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from sqlalchemy import Engine
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ingest.backoff import Backoff
from ingest.config.settings import Settings
from ingest.metrics import CONTENT_TYPE
from ingest.server.serve import uvicorn_config
from ingest.server.socket_activation import listen
from workers.observability.ledger_metrics import LedgerCollector
from workers.observability.queue_metrics import RedisCollector

log = structlog.get_logger()

CACHE_FOR = timedelta(seconds=5)
"""However often metrics are asked for, Redis and the ledger are read no more often than this."""

BACKOFF = Backoff(timedelta(seconds=1), timedelta(minutes=1))
STOP_TIMEOUT = timedelta(seconds=2)


class CachedCollector(Collector):
    """Collects at most once in CACHE_FOR. Whoever asks meanwhile gets what was collected last."""

    def __init__(self, collectors: Sequence[Collector], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._collectors = collectors
        self._clock = clock
        self._lock = threading.Lock()
        self._collected: list[Metric] = []
        self._until = float("-inf")

    def collect(self) -> Iterator[Metric]:
        """Return the metrics of all collectors."""
        with self._lock:
            if self._clock() >= self._until:
                self._collected = [metric for each in self._collectors for metric in each.collect()]
                self._until = self._clock() + CACHE_FOR.total_seconds()
            collected = self._collected
        yield from collected


def installation_registry(engine: Engine, connection: redis.Redis) -> CollectorRegistry:
    """Return the metrics of this process, and those of the installation: ledger, queues, workers and clocks."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    registry.register(CachedCollector([LedgerCollector(engine), RedisCollector(connection)]))
    return registry


def create_metrics_app(registry: CollectorRegistry) -> Starlette:
    """Build the application. Its endpoints run in threads, as reading the stores takes a while."""

    def healthz(_request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    def metrics(_request: Request) -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE)

    return Starlette(routes=[Route("/healthz", healthz), Route("/metrics", metrics)])


class MetricsServer:
    """Serves in a thread of its own; while the port is taken, by another clock say, it is tried again and again."""

    def __init__(self, app: Starlette, settings: Settings) -> None:
        self._app = app
        self._settings = settings
        self._stop = threading.Event()
        self._server: uvicorn.Server | None = None
        self._thread = threading.Thread(target=self._run, name="metrics", daemon=True)
        self.port: int | None = None
        """Where it listens; None while it does not."""

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Stop serving, and wait for STOP_TIMEOUT at most."""
        self._stop.set()
        if self._server is not None:
            self._server.should_exit = True
        self._thread.join(STOP_TIMEOUT.total_seconds())

    def _run(self) -> None:
        failures = 0
        while not self._stop.is_set():
            try:
                listening = listen(self._settings.host, self._settings.metrics_port)
            except SystemExit as error:
                failures += 1
                if failures == 1:
                    log.warning("metrics.not_served", reason=str(error))
                self._stop.wait(BACKOFF.delay(failures).total_seconds())
                continue
            failures = 0
            self._server = uvicorn.Server(uvicorn_config(self._app, self._settings))
            with listening:
                self.port = listening.getsockname()[1]
                log.info("metrics.listening", host=self._settings.host, port=self.port)
                self._server.run([listening])
            self.port = None
