from prometheus_client.parser import text_string_to_metric_families

from ingest.log_handler import DropReason, drop_listeners
from ingest.metrics import Metrics


def lines(metrics, **facts):
    return metrics.text(facts).decode().splitlines()


def test_every_metric_counts():
    metrics = Metrics()
    metrics.committed(kept=3, repeated=1, seconds=0.003)
    metrics.committed(kept=1, repeated=0, seconds=2)
    metrics.commit_failed()
    metrics.refused("TooLarge")
    metrics.quarantined(entered=5, dropped=2)

    text = lines(metrics)
    for line in (
        "webhooks_deliveries_kept_total 4.0",
        "webhooks_deliveries_repeated_total 1.0",
        'webhooks_inbox_commit_deliveries_bucket{le="1.0"} 1.0',
        'webhooks_inbox_commit_deliveries_bucket{le="4.0"} 2.0',
        'webhooks_inbox_commit_seconds_bucket{le="0.005"} 1.0',
        "webhooks_inbox_commits_failed_total 1.0",
        'webhooks_requests_refused_total{reason="TooLarge"} 1.0',
        "webhooks_quarantine_entered_total 5.0",
        "webhooks_quarantine_dropped_total 2.0",
    ):
        assert line in text
    assert any(line.startswith("process_resident_memory_bytes") for line in text)


def test_prometheus_parses_it():
    metrics = Metrics()
    metrics.refused("TooLarge")
    families = {
        family.name: family
        for family in text_string_to_metric_families(metrics.text({"webhooks_inbox_up": 1}).decode())
    }
    assert families["webhooks_requests_refused"].type == "counter"
    assert families["webhooks_inbox_commit_seconds"].type == "histogram"
    assert families["webhooks_inbox_up"].type == families["webhooks_relay_held"].type == "gauge"
    assert all(family.documentation for family in families.values())


def test_gauges_have_the_value_of_each_request():
    metrics = Metrics()

    assert "webhooks_inbox_unsettled 7.0" in lines(metrics, webhooks_inbox_unsettled=7.0)
    assert "webhooks_inbox_unsettled 0.0" in lines(metrics, webhooks_inbox_unsettled=0.0)
    assert not any("unsettled" in line for line in lines(metrics))


def test_each_process_has_its_own_registry():
    metrics = Metrics()
    metrics.committed(kept=1, repeated=0, seconds=0)

    assert "webhooks_deliveries_kept_total 0.0" in lines(Metrics())


def test_log_lines_that_were_dropped_are_counted_by_reason():
    metrics = Metrics()

    def count(reason):
        return metrics.registry.get_sample_value("webhooks_log_lines_dropped_total", {"reason": reason})

    before = {reason: count(reason) for reason in DropReason}
    for listener in drop_listeners:
        listener(DropReason.LIMIT, 7)
    assert {reason: count(reason) for reason in DropReason} == before | {DropReason.LIMIT: before["limit"] + 7}
