import sqlite3
from contextlib import closing

import pytest
from rich.progress import Progress

from ingest.config.settings import load_settings
from tests.bench import backlog as backlog_bench
from tests.bench import work as work_bench
from tests.bench.databases import postgresql
from tests.bench.harness import isolated_environment
from tests.bench.http_load import bodies
from tests.bench.pipeline import read_only_inbox, waiting_in
from tests.bench.work import fill, work


def test_an_inbox_is_filled_with_every_event(tmp_path, monkeypatch):
    monkeypatch.setattr(work_bench, "COMMIT_SIZE", 4)
    settings = load_settings(data_dir=tmp_path, plugsurfing_hmac_current="key")
    fill(settings, bodies("seed", 10))
    with read_only_inbox(settings) as inbox:
        assert waiting_in(inbox) == 10
        with pytest.raises(sqlite3.OperationalError), closing(inbox.cursor()) as cursor:
            cursor.execute("DELETE FROM deliveries")


@pytest.mark.slow
def test_both_workers_are_measured_on_both_databases():
    with isolated_environment(), postgresql(None) as server:
        report = work(1, 30, 2, server, Progress(disable=True))
    assert [row.name for row in report.rows] == [
        "webhooks work, SQLite",
        "rq worker, one job an event, SQLite",
        "webhooks work, PostgreSQL",
        "rq worker, one job an event, PostgreSQL",
    ]
    assert all(row.samples["rate"][0] > 0 for row in report.rows)
    assert "no PostgreSQL" not in report.caption


@pytest.mark.slow
def test_an_event_costs_much_the_same_however_many_wait(monkeypatch):
    monkeypatch.setattr(backlog_bench, "ROUNDS", 1)
    with isolated_environment():
        report = backlog_bench.backlog(10_000, None, Progress(disable=True))
    small, *parts = report.rows
    assert small.samples["to_small"] == [1.0]
    assert len(parts) == backlog_bench.PARTS
    assert all(row.samples["cpu_us"][0] > 0 and row.samples["mib"][0] > 0 for row in report.rows)
