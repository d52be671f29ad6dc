import os
from datetime import UTC, datetime, timedelta

import pytest
from opentelemetry import trace

from ingest.config.settings import load_settings
from ingest.telemetry.steps import Span, SpanKind, batch_of, receipt_of, run_of
from ingest.telemetry.tracing import Tracing
from tests.ingest.telemetry.collectors import collector

DELIVERY = "0123456789abcdef0123456789abcdef"
AT = datetime(2026, 11, 29, 12, 0, tzinfo=UTC)


@pytest.fixture
def received():
    with collector() as made:
        yield made


def configured(received, **settings):
    tracing = Tracing()
    tracing.configure(load_settings(otel_exporter_otlp_endpoint=f"{received.url}/", **settings), "work")
    return tracing


def span(step, parent=None, **more):
    return Span(step, step.name, parent, AT, AT + timedelta(milliseconds=5), **more)


def test_a_trace_has_the_id_of_its_delivery_and_each_step_its_parent(received):
    tracing = configured(received)
    tracing.record(span(run_of(DELIVERY, "audit"), batch_of(DELIVERY), attributes={"handler": "audit"}))
    tracing.record(span(batch_of(DELIVERY), receipt_of(DELIVERY), kind=SpanKind.CONSUMER))
    tracing.record(span(receipt_of(DELIVERY), kind=SpanKind.SERVER))
    tracing.flush()

    run, batch, receipt = received.spans
    assert {each.trace_id for each in received.spans} == {DELIVERY}
    assert (receipt.parent_id, batch.parent_id, run.parent_id) == ("", receipt.span_id, batch.span_id)
    assert run.attributes == {"plugsurfing.delivery.id": DELIVERY, "attempt": 1, "handler": "audit"}
    assert run.nanoseconds == 5_000_000
    assert run.service == "work"
    assert (receipt.kind, batch.kind) == (trace.SpanKind.SERVER.value + 1, trace.SpanKind.CONSUMER.value + 1)


def test_a_later_attempt_has_a_trace_of_its_own_and_a_link_to_the_first(received):
    tracing = configured(received)
    tracing.record(span(run_of(DELIVERY, "audit"), batch_of(DELIVERY), error="KeyError"))
    tracing.record(span(run_of(DELIVERY, "audit", 2), batch_of(DELIVERY)))
    tracing.flush()

    first, second = received.spans
    assert first.is_error
    assert first.attributes["error.type"] == "KeyError"
    assert second.trace_id not in {DELIVERY, "0" * 32}
    assert (second.parent_id, second.links) == ("", [(DELIVERY, first.span_id)])
    assert second.attributes["attempt"] == 2


def test_what_a_library_records_in_a_handler_is_below_its_run():
    with collector() as received:
        tracing = configured(received)
        with tracing.activate(run_of(DELIVERY, "audit")):
            current = trace.get_current_span().get_span_context()
        assert trace.get_current_span().get_span_context().trace_id == 0
    assert f"{current.trace_id:032x}" == DELIVERY
    assert current.span_id == run_of(DELIVERY, "audit").span_id
    assert current.trace_flags.sampled


def test_every_process_samples_the_same_traces(received, monkeypatch):
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0.5")
    ids = [f"{number:016x}{number * 2**57 % 2**64:016x}" for number in range(1, 100)]
    serve, work = configured(received), configured(received)
    for each in ids:
        serve.record(span(receipt_of(each)))
        work.record(span(batch_of(each), receipt_of(each)))
    serve.flush()
    work.flush()

    begun = {each.trace_id for each in received.spans if each.name == "receipt"}
    assert 0 < len(begun) < len(ids)
    assert {each.trace_id for each in received.spans if each.name == "batch"} == begun


def test_headers_and_the_name_of_the_service_can_be_set(received, monkeypatch):
    monkeypatch.setenv("OTEL_SERVICE_NAME", "receiver")
    tracing = configured(received, otel_exporter_otlp_headers="x-api-key=a-key, other=b")
    tracing.record(span(receipt_of(DELIVERY)))
    tracing.flush()

    assert received.headers[0]["x-api-key"] == "a-key"
    assert received.spans[0].service == "receiver"


def test_a_forked_process_exports_what_is_its_own(received):
    tracing = configured(received)
    tracing.record(span(receipt_of(DELIVERY)))
    pid = os.fork()
    if pid == 0:
        tracing.record(span(batch_of(DELIVERY)))
        tracing.flush()
        os._exit(0)
    os.waitpid(pid, 0)
    tracing.flush()

    assert sorted(each.name for each in received.spans) == ["batch", "receipt"]
