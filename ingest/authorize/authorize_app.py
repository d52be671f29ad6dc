"""The application of `webhooks authorize`; the policy evaluator and the recorder are passed in."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.routing import Route

from ingest.authorize.authorize_health import AuthorizeHealth
from ingest.authorize.authorize_metrics import AuthorizeMetrics
from ingest.authorize.credentials import Credentials
from ingest.authorize.decisions import DecisionRecorder, PolicyEvaluator
from ingest.authorize.endpoint import AuthorizeEndpoint
from ingest.authorize.response_cache import ResponseCache
from ingest.authorize.response_writer import UNAVAILABLE_MESSAGE
from ingest.authorize.timed_protocol import METRICS_KEY
from ingest.backoff import restart_forever
from ingest.config.secret_reload import reload_forever
from ingest.config.settings import Settings
from ingest.http.error_boundary import PROBES, ErrorBoundary
from ingest.http.health import http_error_handler
from ingest.http.openapi import ANY_TEXT, openapi_route
from ingest.wire.authorization.request import WireFormat

OPENAPI = Path(__file__).with_name("openapi.json")

PATHS = {
    WireFormat.PLUGSURFING: "/plugsurfing/authorizations",
    # Any text, because everything encoded belongs to the uid: a 404 would leave a driver without a decision.
    WireFormat.OCPI: f"/ocpi/2.2.1/tokens/{{token_uid:{ANY_TEXT}}}/authorize",
}


def create_authorize_app(settings: Settings, evaluator: PolicyEvaluator, recorder: DecisionRecorder) -> Starlette:
    """Create the application, which starts and stops the evaluator and the recorder with the server."""
    metrics = AuthorizeMetrics()
    credentials = Credentials(settings)
    cache = ResponseCache(settings.authorize_repeats)
    health = AuthorizeHealth(evaluator, metrics)

    @contextlib.asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[dict[str, AuthorizeMetrics]]:
        await asyncio.to_thread(recorder.start)
        await evaluator.start()
        reloading = asyncio.create_task(restart_forever("credentials", partial(reload_forever, credentials.refresh)))
        try:
            yield {METRICS_KEY: metrics}
        finally:
            reloading.cancel()
            await evaluator.stop()
            await asyncio.to_thread(recorder.stop)

    endpoints = {
        form: ErrorBoundary(
            AuthorizeEndpoint(
                form, settings, credentials, evaluator=evaluator, cache=cache, recorder=recorder, metrics=metrics
            ),
            metrics,
            UNAVAILABLE_MESSAGE,
            form.value,
        )
        for form in PATHS
    }
    probes = {"/healthz": health.healthz, "/readyz": health.readyz, "/metrics": health.metrics}
    return Starlette(
        routes=[
            *(Route(path, endpoints[form], methods=["POST"]) for form, at in PATHS.items() for path in (at, f"{at}/")),
            *(Route(path, probe) for path, probe in probes.items()),
            openapi_route(OPENAPI),
        ],
        middleware=[Middleware(ErrorBoundary, metrics=metrics, sentence=UNAVAILABLE_MESSAGE, route_name=PROBES)],
        exception_handlers={HTTPException: http_error_handler},  # type: ignore[dict-item]  # it gets no other
        lifespan=lifespan,
    )
