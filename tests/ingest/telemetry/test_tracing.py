import subprocess
import sys
from datetime import UTC, datetime

import pytest
from structlog.testing import capture_logs

from ingest.config.settings import load_settings
from ingest.errors import SettingsError
from ingest.telemetry.steps import Span, receipt_of, run_of
from ingest.telemetry.tracing import NEEDED, Tracing

DELIVERY = "0123456789abcdef0123456789abcdef"


def test_without_an_endpoint_nothing_is_recorded_or_imported():
    tracing = Tracing()
    tracing.configure(load_settings(), "serve")
    assert not tracing.is_on
    with tracing.activate(run_of(DELIVERY, "audit")):
        tracing.record(Span(receipt_of(DELIVERY), "receipt", None, datetime.now(UTC), datetime.now(UTC)))
    tracing.flush()

    # redis-py looks for OpenTelemetry's API and SDK of metrics by itself.
    loaded = "{'opentelemetry.exporter', 'opentelemetry.sdk.trace', 'sentry_sdk'} & set(sys.modules)"
    program = f"import sys, ingest.server.serve, workers.execution.worker; sys.exit(len({loaded}))"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_an_endpoint_without_the_extra_is_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, NEEDED, None)
    settings = load_settings(otel_exporter_otlp_endpoint="http://127.0.0.1:4318")
    with pytest.raises(SettingsError, match=r"OTEL_EXPORTER_OTLP_ENDPOINT .*webhooks\[otel\]"):
        Tracing().configure(settings, "serve")


def test_the_ids_of_steps_differ():
    steps = [receipt_of(DELIVERY), run_of(DELIVERY, "a"), run_of(DELIVERY, "a", 2), run_of(DELIVERY, "b")]
    assert len({step.span_id for step in steps}) == len(steps)
    assert [step.trace_id == int(DELIVERY, 16) for step in steps] == [True, True, False, True]
    assert steps[2].first == steps[1]


class BrokenSink:
    def record(self, span):  # noqa: ARG002 - the signature is a sink's
        raise RuntimeError("can't start new thread")

    def flush(self):
        raise RuntimeError("can't start new thread")


def test_what_is_traced_goes_on_when_a_span_cannot_be_recorded():
    tracing = Tracing()
    tracing.use(BrokenSink())
    with capture_logs() as logs:
        tracing.record(Span(receipt_of(DELIVERY), "receipt", None, datetime.now(UTC), datetime.now(UTC)))
        tracing.flush()
    assert [each["event"] for each in logs] == ["span.not_recorded", "spans.not_exported"]
