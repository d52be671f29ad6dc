"""Exports spans with OpenTelemetry's SDK, by OTLP over HTTP.

Whatever else the SDK reads from the environment holds, such as OTEL_TRACES_SAMPLER and OTEL_RESOURCE_ATTRIBUTES:
https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/
"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import cached_property

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_NAMESPACE, OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import Decision
from opentelemetry.util.re import parse_env_headers

from ingest.telemetry.steps import Span, Step

# Seconds, and spans: a batch of 2,000 deliveries makes three spans of each at once.
EXPORT_TIMEOUT = 5.0
EXPORT_EVERY = 1.0
MAX_WAITING = 16_384
MAX_EXPORTED = 2048
NAMESPACE = "plugsurfing-webhooks"
DELIVERY = "plugsurfing.delivery.id"
EPOCH = datetime.fromtimestamp(0, UTC)


class PlannedIds(IdGenerator):
    """Gives the next span of this thread the ids of its step."""

    def __init__(self) -> None:
        self._next = threading.local()

    def plan(self, step: Step) -> None:
        """Set the ids of the next span."""
        self._next.step = step

    def generate_trace_id(self) -> int:
        """Return the id of a trace that begins with the next span."""
        return self._step.trace_id

    def generate_span_id(self) -> int:
        """Return the id of the next span."""
        return self._step.span_id

    @property
    def _step(self) -> Step:
        step: Step = self._next.step
        return step


class SpanExport:
    """Exports the spans of a process from a thread of its own, which starts with the first span."""

    def __init__(self, endpoint: str, headers: str, process: str) -> None:
        self._endpoint = f"{endpoint.rstrip('/')}/v1/traces"
        self._headers = parse_env_headers(headers, liberal=True)
        self._process = process
        self._ids = PlannedIds()
        os.register_at_fork(after_in_child=self._forget)

    def record(self, span: Span) -> None:
        """Queue a span; drop it if MAX_WAITING wait, which the SDK logs."""
        is_first = span.step.attempt == 1
        self._ids.plan(span.step)
        recorded = self._tracer.start_span(
            span.name,
            context=self._context(span.parent) if is_first and span.parent is not None else Context(),
            kind=trace.SpanKind[span.kind],
            attributes={DELIVERY: span.step.delivery_id, "attempt": span.step.attempt, **span.attributes},
            links=() if is_first else (trace.Link(self._span_context(span.step.first)),),
            start_time=_nanoseconds(span.began_at),
        )
        if span.error is not None:
            recorded.set_status(trace.StatusCode.ERROR)
            recorded.set_attribute("error.type", span.error)
        recorded.end(_nanoseconds(span.ended_at))

    @contextmanager
    def activate(self, step: Step) -> Iterator[None]:
        """Make a step the current span."""
        with trace.use_span(trace.NonRecordingSpan(self._span_context(step))):
            yield

    def flush(self) -> None:
        """Export what is queued."""
        if "_provider" in self.__dict__:
            self._provider.force_flush()

    def _forget(self) -> None:
        """Drop what a forked process cannot use: it gets a thread and a connection of its own."""
        self.__dict__.pop("_provider", None)
        self.__dict__.pop("_tracer", None)

    @cached_property
    def _provider(self) -> TracerProvider:
        named = Resource({SERVICE_NAMESPACE: NAMESPACE, SERVICE_NAME: self._process})
        provider = TracerProvider(
            resource=Resource.create().merge(named).merge(OTELResourceDetector().detect()), id_generator=self._ids
        )
        provider.add_span_processor(
            BatchSpanProcessor(
                OTLPSpanExporter(self._endpoint, headers=self._headers, timeout=EXPORT_TIMEOUT),
                max_queue_size=MAX_WAITING,
                schedule_delay_millis=EXPORT_EVERY * 1000,
                max_export_batch_size=MAX_EXPORTED,
            )
        )
        return provider

    @cached_property
    def _tracer(self) -> trace.Tracer:
        return self._provider.get_tracer(NAMESPACE)

    def _context(self, step: Step) -> Context:
        return trace.set_span_in_context(trace.NonRecordingSpan(self._span_context(step)), Context())

    def _span_context(self, step: Step) -> trace.SpanContext:
        """Return a step's context, as sampled as its trace is: each process decides alike from the id alone."""
        sampling = self._provider.sampler.should_sample(None, step.trace_id, step.name)
        is_sampled = sampling.decision is Decision.RECORD_AND_SAMPLE
        flags = trace.TraceFlags(trace.TraceFlags.SAMPLED if is_sampled else trace.TraceFlags.DEFAULT)
        return trace.SpanContext(step.trace_id, step.span_id, is_remote=True, trace_flags=flags)


def _nanoseconds(at: datetime) -> int:
    return (at - EPOCH) // timedelta(microseconds=1) * 1000
