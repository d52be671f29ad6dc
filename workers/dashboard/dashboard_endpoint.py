"""rq-dashboard as an application that is imported when somebody opens it: with Flask it takes 6 MiB."""

from threading import Lock
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp, Receive, Scope, Send

from ingest.config.settings import Settings

THREADS = 4


class LazyDashboard:
    """Builds the application at the first request, and passes all of them on to it."""

    def __init__(self, settings: Settings) -> None:
        """Raise SettingsError if Redis is not set."""
        settings.require_redis()
        self._settings = settings
        self._lock = Lock()
        self._app: ASGIApp | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        app = await run_in_threadpool(self._build) if self._app is None else self._app
        await app(scope, receive, send)

    def _build(self) -> ASGIApp:
        # Here, so that a console whose queues nobody looks at does without them.
        from a2wsgi import WSGIMiddleware  # noqa: PLC0415

        from workers.dashboard.dashboard_app import create_dashboard  # noqa: PLC0415

        with self._lock:
            if self._app is None:
                flask: Any = create_dashboard(self._settings)  # the types of Flask, a2wsgi and Starlette differ in form
                app: Any = WSGIMiddleware(flask, workers=THREADS)
                self._app = app
            return self._app
