"""The process type `dashboard`: the console at `/`, rq-dashboard at `/rq/`, both behind one login."""

from collections.abc import Callable, Iterable
from functools import cache

import structlog
from prometheus_client import CollectorRegistry, generate_latest
from sqlalchemy import Engine
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp

from ingest.config.settings import Settings
from ingest.log import configure_logging
from ingest.metrics import CONTENT_TYPE
from ingest.server.graceful_shutdown import DrainingServer
from ingest.server.limits import share_heaps
from ingest.server.serve import prepare_process, uvicorn_config
from ingest.server.socket_activation import listen
from workers.access.access_control import AccessControl
from workers.console.console_app import create_console, error_page
from workers.console.login_page import login_page
from workers.console.overview import HealthFinding, no_checks
from workers.dashboard.dashboard_endpoint import LazyDashboard
from workers.dashboard.queue_client import client_of
from workers.ledger.database.engine import create_ledger_engine
from workers.observability.metrics_server import installation_registry

log = structlog.get_logger()


def serve_console(settings: Settings, checks: Callable[[Settings], Iterable[HealthFinding]] = no_checks) -> None:
    """Serve until a signal. Raise SettingsError if it would be open to other machines without a login."""
    app = create_console_app(settings, create_ledger_engine(settings.database_url), checks)
    configure_logging(settings, "dashboard")
    sockets = [listen(settings.host, settings.dashboard_port)]
    prepare_process()
    share_heaps()
    log.info("dashboard.started", host=settings.host, port=sockets[0].getsockname()[1])
    try:
        DrainingServer(uvicorn_config(app, settings), waits_for_senders=False).run(sockets)
    finally:
        log.info("dashboard.stopped")


def create_console_app(
    settings: Settings, engine: Engine, checks: Callable[[Settings], Iterable[HealthFinding]] = no_checks
) -> ASGIApp:
    """Build the whole application. Raise SettingsError if it would be open to other machines without a login."""
    routes = [Mount("/rq", LazyDashboard(settings)), *access_routes(settings, engine)]
    return with_access_control(settings, engine, routes, checks)


def with_access_control(
    settings: Settings,
    engine: Engine,
    routes: list[Route | Mount],
    checks: Callable[[Settings], Iterable[HealthFinding]] = no_checks,
) -> ASGIApp:
    """Build the console with these routes beside its own, behind the access control."""
    return AccessControl(create_console(settings, engine, checks=checks, routes=routes), settings, engine, error_page)


def access_routes(settings: Settings, engine: Engine) -> list[Route | Mount]:
    """Return the routes of the login and of the metrics of the installation."""

    @cache
    def registry() -> CollectorRegistry:
        return installation_registry(engine, client_of(settings.require_redis()))

    def metrics(_request: Request) -> Response:
        return Response(generate_latest(registry()), media_type=CONTENT_TYPE)

    return [Route("/login", login_page, methods=["GET"]), Route("/metrics", metrics, methods=["GET"])]
