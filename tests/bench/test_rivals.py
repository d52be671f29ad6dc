from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from rich.progress import Progress

from tests.bench import rivals
from tests.bench.databases import postgresql
from tests.bench.harness import BenchFailed, isolated_environment
from tests.bench.http_load import bodies
from tests.bench.rival_workers import event_store

QUIET = Progress(disable=True)


def test_the_worker_of_a_rival_stores_an_event_once_and_the_latest_state_of_its_session(postgres_url, monkeypatch):
    url = postgres_url.replace("+psycopg", "")
    monkeypatch.setenv(event_store.DATABASE_VARIABLE, url)
    first, second, third = (body.decode() for body in bodies("work", 3))
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(event_store.TABLES)
        for body in (first, third, second, third):
            event_store.store(body)
        assert connection.execute("SELECT count(*), count(DISTINCT body) FROM delivery").fetchone() == (3, 3)
        assert connection.execute("SELECT id, status FROM session").fetchall() == [("work-0", "SESSION_COMPLETE")]


def test_events_of_a_session_that_are_stored_together_are_one_row_of_it():
    deliveries, sessions = event_store.columns([body.decode() for body in reversed(list(bodies("work", 4)))])
    assert (len(deliveries), len(deliveries[0])) == (6, 4)
    assert dict(zip(sessions[0], sessions[2], strict=True)) == {
        "work-0": "SESSION_COMPLETE",
        "work-1": "SESSION_STARTED",
    }


def test_a_rival_that_is_not_to_be_had_has_a_remark_and_the_others_are_measured(monkeypatch):
    @contextmanager
    def environment(package, progress):
        if package == "dramatiq":
            raise BenchFailed("dramatiq cannot be installed: no such package")
        yield Path(package)

    monkeypatch.setattr(rivals, "environment", environment)
    monkeypatch.setattr(rivals, "measure_ours", lambda _harness, _events, row: row.add(rate=100.0))
    monkeypatch.setattr(rivals, "_measure", lambda *_: 50.0)
    with isolated_environment(), postgresql(None) as server:
        report = rivals.rivals(2, 10, server, QUIET)
    ours, *theirs = report.rows
    (missing,) = (row for row in theirs if row.remarks)
    assert missing.name.startswith("dramatiq")
    assert missing.remarks == {"not measured: dramatiq cannot be installed: no such package": 1}
    assert all(row.samples["of_ours"] == [2.0, 2.0] for row in theirs if row is not missing)
    assert [column.cell(missing) for column in report.columns] == ["–", "–"]
    assert ours.samples == {"rate": [100.0, 100.0]}
    assert all(rival.name in report.caption for rival in rivals.RIVALS)


@pytest.mark.slow
def test_a_rival_that_cannot_be_installed_is_named_in_a_sentence(monkeypatch):
    monkeypatch.setitem(rivals.PACKAGES, "pgqueuer", ("./no-such-package",))
    with pytest.raises(BenchFailed, match="pgqueuer cannot be installed: "):
        rivals.environment("pgqueuer", QUIET).__enter__()


@pytest.mark.slow
def test_every_rival_that_is_to_be_had_does_all_events():
    with isolated_environment(), postgresql(None) as server:
        report = rivals.rivals(1, 30, server, QUIET)
    assert all(row.remarks or row.samples["rate"][0] > 0 for row in report.rows)
