"""The process type `dashboard`: rq-dashboard on our Redis, for operators of the queues."""

import contextlib
import logging
import signal
import socket
import threading
from functools import cache
from json import JSONDecodeError
from typing import Any

import structlog
from flask import Blueprint, Flask, Response, request
from prometheus_client import CollectorRegistry, generate_latest
from redis.exceptions import RedisError
from rq.exceptions import DeserializationError, NoSuchJobError
from rq_dashboard.cli import add_basic_auth, make_flask_app
from sqlalchemy.exc import SQLAlchemyError
from werkzeug.serving import ThreadedWSGIServer, WSGIRequestHandler

from ingest.config.settings import Settings
from ingest.errors import SettingsError
from ingest.log import configure_logging
from ingest.metrics import CONTENT_TYPE
from workers.dashboard.rq_dashboard_patch import client_of
from workers.ledger.database.engine import create_ledger_engine
from workers.net import is_loopback
from workers.observability.metrics_server import installation_registry

USERNAME = "webhooks"
# Each connection has a thread of its own.
MAX_CONNECTIONS = 64
# Seconds that a connection may be silent.
SILENCE_TIMEOUT = 30.0

log = structlog.get_logger()


class BoundedRequestHandler(WSGIRequestHandler):
    """Closes a connection that is silent for too long."""

    timeout = SILENCE_TIMEOUT


class BoundedWsgiServer(ThreadedWSGIServer):
    """Closes the oldest connection for a new one when there are MAX_CONNECTIONS: strangers can hold no more threads."""

    daemon_threads = True

    def __init__(self, host: str, port: int, app: Flask, handler: type[WSGIRequestHandler]) -> None:
        super().__init__(host, port, app, handler)
        self._open: dict[socket.socket, None] = {}
        self._lock = threading.Lock()

    def process_request(self, request: socket.socket, client_address: Any) -> None:  # type: ignore[override]
        """Handle a connection in a thread."""
        with self._lock:
            self._open[request] = None
            oldest = next(iter(self._open)) if len(self._open) > MAX_CONNECTIONS else None
            if oldest is not None:
                del self._open[oldest]
        if oldest is not None:
            with contextlib.suppress(OSError):
                oldest.shutdown(socket.SHUT_RDWR)  # its thread then ends
        super().process_request(request, client_address)

    def shutdown_request(self, request: socket.socket) -> None:  # type: ignore[override]
        """Close a connection."""
        with self._lock:
            self._open.pop(request, None)
        super().shutdown_request(request)


def dashboard(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT. Raise SettingsError if it would be open to other machines without a password."""
    app = create_dashboard(settings)
    configure_logging(settings, "dashboard")
    # It logs a line a request, and an open page makes one every few seconds.
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    server = BoundedWsgiServer(settings.host, settings.dashboard_port, app, BoundedRequestHandler)
    for number in (signal.SIGTERM, signal.SIGINT):
        # From a thread of its own: `shutdown` waits for the loop that the signal has interrupted.
        signal.signal(number, lambda _number, _frame: threading.Thread(target=server.shutdown).start())
    log.info("dashboard.started", host=settings.host, port=server.port)
    server.serve_forever(poll_interval=0.1)
    server.server_close()
    log.info("dashboard.stopped")


def create_dashboard(settings: Settings) -> Flask:
    """Build rq-dashboard's app. Raise SettingsError if it would be open to other machines without a password."""
    password = settings.dashboard_password
    if password is None and not is_loopback(settings.host):
        raise SettingsError("DASHBOARD_PASSWORD is not set, and HOST is reachable from other machines.")
    if password is not None and not password.get_secret_value().strip():
        raise SettingsError("DASHBOARD_PASSWORD is set, but empty.")
    if password is None and settings.dashboard_username is not None:
        raise SettingsError("DASHBOARD_USERNAME is set without DASHBOARD_PASSWORD.")
    app: Flask = make_flask_app(
        "workers.dashboard.rq_dashboard_patch",
        username=None if password is None else settings.dashboard_username or USERNAME,
        password=None if password is None else password.get_secret_value(),
        url_prefix="",
    )
    url = settings.require_redis()
    app.config["RQ_DASHBOARD_REDIS_URL"] = (url,)
    app.register_error_handler(RedisError, lambda _error: ("Redis cannot be reached.", 503))  # the page polls by itself
    app.register_error_handler(NoSuchJobError, lambda _error: ("There is no such job.", 404))
    # Of a job that none of our processes has written; it is not decoded in any other way.
    for error in (DeserializationError, JSONDecodeError, UnicodeDecodeError):
        app.register_error_handler(error, lambda _error: ("There is a job that is not JSON.", 502))
    # The ledger may not be there yet, whose id the queues are named by.
    app.register_error_handler(SQLAlchemyError, lambda _error: ("The ledger cannot be reached.", 503))
    app.before_request(lambda: _connect(app, url))
    add_probes(app, settings)
    return app


def add_probes(app: Flask, settings: Settings) -> None:
    """Add `/healthz`, which is open, and `/metrics`, which requires the password."""

    @cache
    def registry() -> CollectorRegistry:
        return installation_registry(create_ledger_engine(settings.database_url), client_of(settings.require_redis()))

    probes = Blueprint("probes", __name__)
    if settings.dashboard_password is not None:
        add_basic_auth(probes, settings.dashboard_username or USERNAME, settings.dashboard_password.get_secret_value())
    probes.add_url_rule("/metrics", "metrics", lambda: Response(generate_latest(registry()), content_type=CONTENT_TYPE))
    app.register_blueprint(probes)
    app.add_url_rule("/healthz", "healthz", lambda: {"status": "ok"})


def _connect(app: Flask, url: str) -> None:
    # Not at start, as rq-dashboard does; and not for a probe of the process.
    if not hasattr(app, "redis_conn") and request.path not in {"/healthz", "/metrics"}:
        vars(app)["redis_conn"] = client_of(url)
