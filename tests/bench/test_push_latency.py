import pytest
from rich.progress import Progress

from tests.bench.databases import kinds_on, postgresql
from tests.bench.harness import isolated_environment
from tests.bench.push_latency import warn


@pytest.mark.slow
def test_every_warning_is_sent_and_timed_on_both_databases():
    with isolated_environment(), postgresql(None) as server:
        report = warn(1, 50, 4, server, Progress(disable=True))
    scenarios = (
        *("idle", "30 % of drivers fail", "40 at once", "50 events wait", "40 at once, 30 % fail, 50 wait"),
        *("a handler of starts takes 25 s", "1,500 replayed"),
    )
    assert [row.name for row in report.rows] == [
        f"{kind}, {name}" for kind in kinds_on("a server") for name in scenarios
    ]
    assert all(row.samples["most_ms"][0] >= row.samples["p50_ms"][0] > 0 for row in report.rows)
