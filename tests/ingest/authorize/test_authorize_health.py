"""Health, readiness and metrics of `authorize`."""


def test_health_readiness_and_metrics_are_served(running):
    running.post(keyIdentifier="0414DA")
    running.records()
    assert running.client.get("/healthz").status_code == 200
    ready = running.client.get("/readyz")
    assert ready.status_code == 200
    assert ready.json() == {
        "ready": True,
        "processes": {"wanted": 1, "ready": 1},
        "spared_policies": ["by_key"],
    }
    numbers = running.client.get("/metrics").text
    assert 'webhooks_authorize_decisions_total{allowed="ALLOWED",policy="none"} 1.0' in numbers
    assert "webhooks_authorize_seconds_count 1.0" in numbers
    assert "webhooks_authorize_processes_ready 1.0" in numbers


def test_readyz_is_503_while_no_policy_process_is_ready(running):
    running.evaluator.ready = 0
    assert running.client.get("/readyz").status_code == 503
