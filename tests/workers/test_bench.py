"""The benches run for a moment each and print every row of their tables; how fast they found anything is not tested."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.progress import Progress

from workers.bench.authorize import Scale, Scenario, authorize
from workers.bench.harness import Harness, isolated_environment
from workers.bench.http_load import Load, LoadSpec, bodies, request
from workers.bench.process import BenchFailed
from workers.bench.report import Column, Row, add_ratios, p99

PATIENCE = 120
WEBHOOKS = "from workers.cli import main; main()"


def run_bench(folder: Path, *arguments: str) -> list[dict]:
    command = [sys.executable, "-c", WEBHOOKS, "bench", *arguments, "--runs", "1", "--json"]
    environment = {**os.environ, "REDIS_URL": "redis://nobody:1/0", "LOG_LEVEL": "nonsense"}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_accept_prints_every_contestant_and_hears_this_shells_settings_not(tmp_path):
    rows = run_bench(tmp_path, "accept", "--seconds", "0.3")
    assert [row["row"] for row in rows] == [
        "empty Starlette 200",
        "usual recipe: enqueue per request",
        "webhooks serve",
        "webhooks serve, a worker beside it",
    ]
    for row in rows:
        assert row["remarks"] == {}
        assert set(row["samples"]) == {"rate", "p50_ms", "p99_ms", "rss_mib", "to_empty", "to_usual"}
        assert row["samples"]["rate"][0] > 0


def test_work_prints_both_contestants_on_both_databases(tmp_path):
    rows = run_bench(tmp_path, "work", "--events", "30", "--rival-events", "2")
    assert [row["row"] for row in rows] == [
        "webhooks work, SQLite",
        "rq worker, one job an event, SQLite",
        "webhooks work, PostgreSQL",
        "rq worker, one job an event, PostgreSQL",
    ]
    assert all(row["samples"]["rate"][0] > 0 for row in rows)


def test_through_prints_single_events_a_steady_rate_and_a_flood(tmp_path):
    rows = run_bench(tmp_path, "through", "--seconds", "0.4", "--rate", "50", "--singles", "2")
    assert [row["row"].partition(": ")[0] for row in rows] == ["SQLite"] * 3 + ["PostgreSQL"] * 3
    assert [row["row"].partition(": ")[2] for row in rows[:3]] == [
        "one event, idle",
        "50/s",
        "64 connections, as fast as they are answered",
    ]
    assert all(row["samples"]["p50_ms"][0] > 0 for row in rows)
    assert all(row["remarks"] == {} for row in rows)


def test_help_says_what_is_measured():
    for arguments in ([], ["accept"], ["work"], ["through"]):
        command = [sys.executable, "-c", WEBHOOKS, "bench", *arguments, "--help"]
        assert "Usage" in subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_every_body_is_distinct_and_the_same_seed_gives_the_same():
    some = list(bodies("seed", 100))
    assert len(set(some)) == 100
    assert some == list(bodies("seed", 100))
    assert not set(some) & set(bodies("another", 100))


def test_a_request_is_whole():
    head, _, body = request("http://localhost:1/path", b"{}", b"key").partition(b"\r\n\r\n")
    assert head.startswith(b"POST /path HTTP/1.1\r\nHost: localhost:1\r\n")
    assert b"Content-Length: 2" in head
    assert body == b"{}"


def test_answers_that_are_no_200_are_counted_by_status():
    load = Load(LoadSpec("http://localhost:1/", "key", "seed", count=3, seconds=60))
    for status in (b"200", b"503", b"503"):
        load.answered(status, time.perf_counter())
    seen = load.seen()
    assert seen.refused == {"503": 2}
    assert seen.kept == 1
    assert seen.answers == 3


def test_a_load_ends_when_its_requests_are_used_up():
    load = Load(LoadSpec("http://localhost:1/", "key", "seed", count=2, seconds=60))
    assert [load.next() is None for _ in range(3)] == [False, False, True]


def test_ratios_are_taken_run_by_run():
    slow, fast = Row("slow"), Row("fast")
    for rate in (1.0, 2.0):
        slow.add(rate=rate)
        fast.add(rate=10 * rate)
    add_ratios([slow, fast], "rate", slow, "ratio")
    assert fast.samples["ratio"] == [10.0, 10.0]
    assert Column("ratio", "ratio", 1).cell(fast) == "10.0 (10.0–10.0)"
    assert Column("other", "other").cell(fast) == "–"


@pytest.mark.parametrize(("values", "found"), [([], 0), ([7], 7), ([0, 100], 99), (range(101), 99)])
def test_of_a_hundred_values_one_may_be_above(values, found):
    assert p99(values) == found


def test_a_process_that_fails_is_reported_with_its_last_words():
    with Harness() as stage:
        process = stage.python("-c", "raise SystemExit('no such luck')", name="unlucky", environment={})
        with pytest.raises(BenchFailed, match="no such luck"):
            process.finish(10)


def test_a_stage_leaves_neither_processes_nor_files_behind():
    with Harness() as stage:
        process = stage.python("-c", "import time; time.sleep(600)", name="sleeper", environment={})
        folder = stage.folder
        assert process.is_running
    assert not process.is_running
    assert not folder.exists()


def test_warn_prints_how_soon_drivers_were_warned_on_both_databases(tmp_path):
    rows = run_bench(tmp_path, "warn", "--events", "50", "--warnings", "3")
    assert [row["row"] for row in rows] == ["SQLite", "PostgreSQL"]
    assert all(row["samples"]["p99_ms"][0] >= row["samples"]["p50_ms"][0] > 0 for row in rows)


def test_authorize_asks_drivers_questions_and_hears_what_it_shall():
    with isolated_environment():
        report = authorize(Scale([Scenario.IDLE, Scenario.HANGING], 1, 0.3, 10), None, Progress(disable=True))
    assert len(report.rows) == 2
    assert all(row.samples["rate"][0] > 0 for row in report.rows)
    assert not [row.remarks for row in report.rows if row.remarks]
