"""The application that `webhooks authorize` runs, put together: policies and the ledger are handed in from above."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.routing import Route

from ingest.authorize.credentials import Credentials
from ingest.authorize.decision_record import DecisionRecorder
from ingest.authorize.endpoint import AuthorizeEndpoint
from ingest.authorize.evaluator import PolicyEvaluator
from ingest.authorize.health import HealthEndpoints
from ingest.authorize.http_protocol import COUNTS
from ingest.authorize.metrics import AuthorizeMetrics
from ingest.authorize.response_cache import ResponseCache
from ingest.authorize.responses import UNAVAILABLE_MESSAGE
from ingest.config.secret_reload import reload_forever
from ingest.config.settings import Settings
from ingest.http.any_path import ANY_TEXT
from ingest.http.error_boundary import PROBES, ErrorBoundary
from ingest.http.openapi import openapi_route
from ingest.http.webhook_endpoint import http_error_handler
from ingest.wire.authorization.request import WireFormat

OPENAPI = Path(__file__).with_name("openapi.json")

PATHS = {
    WireFormat.PLUGSURFING: "/plugsurfing/authorizations",
    # Any text, as whatever is encoded belongs to the uid: a driver waits for an answer, and 404 would be none.
    WireFormat.OCPI: f"/ocpi/2.2.1/tokens/{{token_uid:{ANY_TEXT}}}/authorize",
}


def create_authorize_app(settings: Settings, judges: PolicyEvaluator, recorder: DecisionRecorder) -> Starlette:
    """Build the application; judges and recorder begin when the server starts and end when it does."""
    counts = AuthorizeMetrics()
    credentials = Credentials(settings)
    memory = ResponseCache(settings.authorize_repeats)
    lookout = HealthEndpoints(judges, counts)

    @contextlib.asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[dict[str, AuthorizeMetrics]]:
        await asyncio.to_thread(recorder.start)
        await judges.start()
        rereading = asyncio.create_task(reload_forever(credentials.refresh))
        try:
            yield {COUNTS: counts}
        finally:
            rereading.cancel()
            await judges.stop()
            await asyncio.to_thread(recorder.stop)

    doors = {
        form: ErrorBoundary(
            AuthorizeEndpoint(
                form, settings, credentials, judges=judges, memory=memory, recorder=recorder, counts=counts
            ),
            counts,
            UNAVAILABLE_MESSAGE,
            form.value,
        )
        for form in PATHS
    }
    windows = {"/healthz": lookout.healthz, "/readyz": lookout.readyz, "/metrics": lookout.metrics}
    return Starlette(
        routes=[
            *(Route(place, doors[form], methods=["POST"]) for form, at in PATHS.items() for place in (at, f"{at}/")),
            *(Route(place, window) for place, window in windows.items()),
            openapi_route(OPENAPI),
        ],
        middleware=[Middleware(ErrorBoundary, metrics=counts, sentence=UNAVAILABLE_MESSAGE, route_name=PROBES)],
        exception_handlers={HTTPException: http_error_handler},  # type: ignore[dict-item]  # it gets no other
        lifespan=lifespan,
    )
