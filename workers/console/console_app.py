"""The application of the console, assembled: pages, lists and static files."""

from collections.abc import Callable, Iterable, Sequence
from http import HTTPStatus
from pathlib import Path

import structlog
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from ingest.config.settings import Settings
from ingest.errors import WebhooksError
from workers.console.api import PREFIX, api_routes
from workers.console.authorization_page import try_key
from workers.console.detail_pages import delivery_page, push_page, session_page
from workers.console.driver_page import driver_page, find_page
from workers.console.failure_page import failure_page, failures_page, push_failure_page, run_again, send_again
from workers.console.list_headers import TOPS
from workers.console.list_page import LISTS, list_page
from workers.console.now_page import live, now_page, resolve_alert, settings_page
from workers.console.overview import HealthFinding, OverviewReader, no_checks
from workers.console.page_stores import Opener
from workers.console.page_template import render
from workers.console.replay_status_page import ProgressLog, progress_live, progress_page
from workers.console.reverify_page import reverify, reverify_page
from workers.ledger.database.transaction import LedgerUnavailable

log = structlog.get_logger()

STATIC = Path(__file__).with_name("static")


def create_console(
    settings: Settings,
    engine: Engine,
    *,
    checks: Callable[[Settings], Iterable[HealthFinding]] = no_checks,
    middleware: Sequence[Middleware] = (),
    routes: Sequence[BaseRoute] = (),
) -> Starlette:
    """Build the application. Its endpoints run in threads, as reading the stores takes a while.

    `checks` finds how everything is, as `webhooks check` does.
    """
    app = Starlette(
        routes=[
            Route("/healthz", lambda _request: JSONResponse({"status": "ok"}), methods=["GET"]),
            Mount("/static", StaticFiles(directory=STATIC), name="static"),
            *routes,
            *api_routes(),
            Route("/", now_page, methods=["GET"]),
            Route("/live", live, methods=["GET"]),
            Route("/settings", settings_page, methods=["GET"]),
            Route("/alerts/{id:name}/resolve", resolve_alert, methods=["POST"]),
            Route("/quarantine/reverify", reverify_page, methods=["GET"]),
            Route("/quarantine/reverify", reverify, methods=["POST"]),
            Route("/authorizations/try", try_key, methods=["POST"]),
            Route("/find", find_page, methods=["GET"]),
            Route("/drivers/{user:name}", driver_page, methods=["GET"]),
            Route("/failures", failures_page, methods=["GET"]),
            Route("/failures/pushes/{key}", push_failure_page, methods=["GET"]),
            Route("/failures/pushes/{key}/send", send_again, methods=["POST"]),
            Route("/failures/{key}", failure_page, methods=["GET"]),
            Route("/failures/{key}/run", run_again, methods=["POST"]),
            Route("/progress/{id}", progress_page, methods=["GET"]),
            Route("/progress/{id}/live", progress_live, methods=["GET"]),
            Route("/sessions/{id:name}", session_page, methods=["GET"]),
            Route("/deliveries/{id:name}", delivery_page, methods=["GET"]),
            Route("/pushes/{id:name}", push_page, methods=["GET"]),
            *(
                Route(f"/{name}{form}", list_page(query, TOPS.get(name)), methods=["GET"], name=f"{name}{form}")
                for name, query in LISTS.items()
                for form in ("", ".json", ".csv")
            ),
        ],
        middleware=list(middleware),
        exception_handlers={
            HTTPException: error_page,
            SQLAlchemyError: _ledger_unavailable,
            LedgerUnavailable: _ledger_unavailable,
            WebhooksError: _store_unavailable,
        },
    )
    app.state.stores = Opener(settings, engine)
    app.state.progress = ProgressLog()
    app.state.overview = OverviewReader(app.state.stores, checks)
    return app


def error_page(request: Request, error: Exception) -> Response:
    """Return the page of an HTTPException."""
    assert isinstance(error, HTTPException)  # noqa: S101 - for the type checker
    if request.url.path.startswith(f"{PREFIX}/"):
        return JSONResponse({"error": error.detail}, error.status_code, headers=error.headers)
    page = render(request, "error.html", {"title": HTTPStatus(error.status_code).phrase, "sentence": error.detail})
    page.status_code = error.status_code
    page.headers.update(error.headers or {})
    return page


def _ledger_unavailable(request: Request, error: Exception) -> Response:
    log.warning("console.ledger_unavailable", reason=type(error).__name__)
    sentence = "The ledger cannot be used now. Events are kept meanwhile. See `webhooks check`."
    return error_page(request, HTTPException(HTTPStatus.SERVICE_UNAVAILABLE, sentence))


def _store_unavailable(request: Request, error: Exception) -> Response:
    return error_page(request, HTTPException(HTTPStatus.SERVICE_UNAVAILABLE, str(error)))
