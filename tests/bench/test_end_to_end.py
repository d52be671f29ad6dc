import pytest
from rich.progress import Progress

from tests.bench.databases import postgresql
from tests.bench.end_to_end import EndToEndScale, through
from tests.bench.harness import isolated_environment

NAMES = ["one event, idle", "50/s", "64 connections, as fast as they are answered"]
SCALE = EndToEndScale(runs=1, seconds=0.4, rate=50, singles=2)


def measure(server):
    with isolated_environment():
        return through(SCALE, server, Progress(disable=True))


def test_single_events_a_steady_rate_and_a_flood_are_all_settled():
    """The one bench that runs in every suite: each process type and the load generator are in it."""
    report = measure(None)
    assert [row.name for row in report.rows] == [f"SQLite: {name}" for name in NAMES]
    assert all(row.samples["p99_ms"][0] >= row.samples["p50_ms"][0] > 0 for row in report.rows)
    _, steady, flood = report.rows
    assert steady.samples["answered"][0] <= 1.2 * SCALE.rate < flood.samples["answered"][0]
    assert all(row.samples["settled"][0] > 0 for row in (steady, flood))
    assert all(row.remarks == {} for row in report.rows)


@pytest.mark.slow
def test_both_databases_are_measured():
    with postgresql(None) as server:
        report = measure(server)
    assert [row.name for row in report.rows] == [
        f"{kind}: {name}" for kind in ("SQLite", "PostgreSQL") for name in NAMES
    ]
