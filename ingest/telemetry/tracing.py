"""Traces: one a delivery, whose id is the delivery's, so that no queue and no table has to carry a context."""

from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec
from typing import Protocol

import structlog

from ingest.config.settings import Settings
from ingest.errors import SettingsError
from ingest.telemetry.steps import Span, Step

log = structlog.get_logger()

NEEDED = "opentelemetry.exporter.otlp.proto.http"


class SpanSink(Protocol):
    """Where spans go."""

    def record(self, span: Span) -> None:
        """Queue a span to be exported; it never waits."""

    def activate(self, step: Step) -> AbstractContextManager[None]:
        """Make a step the current span of this thread or task: what libraries record meanwhile is below it."""

    def flush(self) -> None:
        """Export what is queued."""


class Tracing:
    """The tracing of this process. `is_on` is read before anything is made for a span: off, it costs nothing else."""

    def __init__(self) -> None:
        self.is_on = False
        self._sink: SpanSink | None = None

    def configure(self, settings: Settings, process: str) -> None:
        """Begin to record, if OTEL_EXPORTER_OTLP_ENDPOINT is set. Raise SettingsError if the extra is not installed."""
        if settings.otel_exporter_otlp_endpoint is None:
            return
        if not _is_installed():
            raise SettingsError(
                "OTEL_EXPORTER_OTLP_ENDPOINT is set, which needs: pip install 'plugsurfing-webhooks[otel]'."
            )
        from ingest.telemetry.span_export import SpanExport  # noqa: PLC0415 - the SDK takes 0.2 s to import

        headers = settings.otel_exporter_otlp_headers
        self.use(
            SpanExport(
                settings.otel_exporter_otlp_endpoint, headers.get_secret_value() if headers is not None else "", process
            )
        )

    def use(self, sink: SpanSink | None) -> None:
        """Record to this sink; None turns tracing off."""
        self._sink, self.is_on = sink, sink is not None

    def record(self, span: Span) -> None:
        """Record a step that has ended. Never raises: what is traced has been done, and must go on."""
        if self._sink is not None:
            try:
                self._sink.record(span)
            except Exception as error:  # noqa: BLE001 - a boundary: the SDK may raise whatever it likes
                log.warning("span.not_recorded", error=type(error).__name__)

    def activate(self, step: Step) -> AbstractContextManager[None]:
        """Make a step the current span, for what libraries record meanwhile."""
        return nullcontext() if self._sink is None else self._sink.activate(step)

    def flush(self) -> None:
        """Export what is queued: the process is about to end without Python's own end."""
        if self._sink is not None:
            try:
                self._sink.flush()
            except Exception as error:  # noqa: BLE001 - as above
                log.warning("spans.not_exported", error=type(error).__name__)


tracing = Tracing()
"""The tracing of this process."""


def _is_installed() -> bool:
    try:
        return find_spec(NEEDED) is not None
    except ModuleNotFoundError:
        return False
