import pytest
from rich.progress import Progress

from tests.bench.accept import CONNECTIONS, accept, load_spec
from tests.bench.harness import isolated_environment
from tests.bench.http_load import MAX_RATE


def test_a_load_has_requests_for_its_whole_time_at_any_speed():
    spec = load_spec(8000, 3, 5.0)
    assert spec.url == "http://127.0.0.1:8000/plugsurfing/events"
    assert spec.count >= MAX_RATE * (spec.seconds + spec.warm_up_s)
    assert spec.connections == CONNECTIONS
    assert spec.seed != load_spec(8000, 4, 5.0).seed


@pytest.mark.slow
def test_every_target_is_measured_and_compared_with_both_baselines():
    with isolated_environment():
        report = accept(1, 0.3, Progress(disable=True))
    assert [row.name for row in report.rows] == [
        "empty Starlette 200",
        "usual recipe: enqueue per request",
        "webhooks serve",
        "webhooks serve, a worker beside it",
        "webhooks serve, 256 connections",
    ]
    for row in report.rows:
        assert row.remarks == {}
        assert set(row.samples) == {column.key for column in report.columns}
        assert row.samples["rate"][0] > 0
    assert report.rows[0].samples["to_empty"] == report.rows[1].samples["to_usual"] == [1.0]
