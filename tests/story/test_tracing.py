"""One trace a delivery, from its POST to its push, as an OpenTelemetry collector receives it."""

from ingest.wire.envelope import Kind
from tests.faults.cluster import Cluster, wait_until
from tests.ingest.telemetry.collectors import collector
from tests.story.test_erasure import event, post

USER = "jane.roe@example.com"


def test_a_collector_has_the_way_of_a_delivery_through_all_processes():
    with collector() as received, Cluster(settings={"OTEL_EXPORTER_OTLP_ENDPOINT": received.url}) as cluster:
        (port,) = cluster.ports
        assert post(port, Kind.EVENTS, event("SESSION_STARTED", userId=USER)) == 200
        assert post(port, Kind.EVENTS, event("SESSION_STOPPED", userId=USER)) == 200

        def spans(name):
            return [each for each in received.spans if each.name == name]

        wait_until(lambda: spans("push file") and len(spans("run record_on_retry")) == 2, "all spans have come")

        (push,) = spans("push file")
        (run,) = spans("run push_hello")
        own = {each.name: each for each in received.spans if each.trace_id == push.trace_id}
        batch = own["batch sessions"]
        receipt = own["POST events"]
        assert [receipt.service, batch.service, run.service, push.service] == ["serve", "work", "work", "clock"]
        assert (batch.parent_id, run.parent_id, push.parent_id) == (receipt.span_id, batch.span_id, run.span_id)
        assert {each.attributes["plugsurfing.delivery.id"] for each in own.values()} == {push.trace_id}

        first, second = sorted(spans("run record_on_retry"), key=lambda each: each.attributes["attempt"])
        assert [each.attributes["outcome"] for each in (first, second)] == ["again", "done"]
        assert second.links == [(first.trace_id, first.span_id)]
        assert second.trace_id != first.trace_id

        assert USER not in str(received.spans)
        assert "Zx81Session" not in str(received.spans)
