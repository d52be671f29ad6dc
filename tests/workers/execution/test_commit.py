"""Runs are committed together; a run whose effects fail harms no other."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
import redis
from sqlalchemy import BigInteger, Column, MetaData, String, Table, event, insert, select

from handlers.kit.context import DeferredEffects, DeferredStatement, Push
from ingest.config.settings import load_settings
from ingest.queue.batch import Delivery
from workers.execution.commit import commit_new_runs
from workers.execution.run_result import RunResult
from workers.ledger import deliveries, pushes
from workers.ledger.database.engine import create_ledger_engine
from workers.ledger.database.transaction import LedgerUnavailable, run_in_transaction
from workers.ledger.states import DeliveryState, Outcome
from workers.ledger.tables import metadata
from workers.plugins import Plugins
from workers.push.registry import open_channels
from workers.resources import Resources

NOON = datetime(2026, 5, 4, 12, tzinfo=UTC)
PLUGINS = MetaData()
notes = Table("notes", PLUGINS, Column("text", String, primary_key=True), Column("number", BigInteger))
never_made = Table("never_made", PLUGINS, Column("text", String))
grown = Table("notes", MetaData(), Column("text", String, primary_key=True), Column("never_added", String))
NOTE = insert(notes)


@pytest.fixture
def resources(database_url: str, tmp_path: Path) -> Resources:
    engine = create_ledger_engine(database_url, creates_file=True)
    metadata.create_all(engine)
    with engine.begin() as ledger:
        notes.create(ledger)
    settings = load_settings(data_dir=tmp_path, plugsurfing_hmac_current="key", database_url=database_url)
    return Resources(settings, Plugins(()), engine, redis.Redis(), open_channels(settings))


def ran(number: int, *wanted: DeferredStatement, attempt: int = 1) -> RunResult:
    push = Push("u1", "title", "body", f"key {number}")
    return RunResult(
        delivery_id=f"d{number}",
        handler="note",
        attempts=attempt,
        outcome=Outcome.DONE,
        started_at=NOON,
        finished_at=NOON,
        writes=DeferredEffects((push,), wanted),
    )


def concluded(resources: Resources, results: list[RunResult]) -> dict[str, Outcome]:
    arrived = [
        Delivery(each.delivery_id, "events", None, None, NOON, "current", None, {}, b"{}", 1, "here")
        for each in results
    ]

    def keep(ledger):
        deliveries.store(ledger, arrived, {each.id: (DeliveryState.RUNNING, None) for each in arrived})
        return commit_new_runs(ledger, resources, results, "sessions", {each.id for each in arrived})

    run_in_transaction(resources.engine, keep, retry_for=0.5)
    with resources.engine.connect() as ledger:
        shown = [deliveries.get(ledger, each.id) for each in arrived]
    return {row.id: run.outcome for row in shown if row for run in row.runs}


def written(resources: Resources) -> list[str]:
    with resources.engine.connect() as ledger:
        return sorted(ledger.scalars(select(notes.c.text)))


@pytest.mark.parametrize(
    "bad",
    [
        DeferredStatement(insert(never_made).values(text="lost")),
        DeferredStatement(insert(grown).values(text="lost", never_added="lost")),
        DeferredStatement(NOTE, {"text": "lost", "number": 2**70}),
        DeferredStatement(NOTE, {"text": "lost \ud800", "number": 1}),
        DeferredStatement(insert(notes).values(text="lost \ud800", number=1)),
        DeferredStatement(NOTE, {"text": "lost", "number": object()}),
    ],
    ids=["no table", "no column", "a large number", "half a character", "half a character at once", "no value"],
)
def test_a_failing_statement_fails_its_own_run_only(resources: Resources, bad: DeferredStatement) -> None:
    results = [
        ran(number, DeferredStatement(NOTE, {"text": f"note {number}", "number": number})) for number in range(7)
    ]
    results[3] = ran(3, bad)
    found = concluded(resources, results)
    assert found.pop("d3") is Outcome.AGAIN
    assert set(found.values()) == {Outcome.DONE}
    assert written(resources) == [f"note {number}" for number in (0, 1, 2, 4, 5, 6)]


@pytest.mark.parametrize("title", [{"en": "Fee"}, None, object(), "half a character \ud800"])
def test_a_push_that_cannot_be_stored_fails_its_own_run_only(resources: Resources, title: object) -> None:
    results = [
        ran(number, DeferredStatement(NOTE, {"text": f"note {number}", "number": number})) for number in range(5)
    ]
    results[3] = replace(results[3], writes=DeferredEffects((Push("u1", title, "body", "key"),)))
    found = concluded(resources, results)
    assert found.pop("d3") is Outcome.AGAIN
    assert set(found.values()) == {Outcome.DONE}
    with resources.engine.connect() as ledger:
        assert sorted(push.delivery_id for push in pushes.find(ledger)) == ["d0", "d1", "d2", "d4"]


def test_a_run_whose_writes_keep_failing_is_dead_in_the_end(resources: Resources) -> None:
    last = resources.settings.retry_attempts
    assert concluded(resources, [ran(1, DeferredStatement(insert(never_made)), attempt=last)]) == {"d1": Outcome.DEAD}


def test_an_unavailable_database_fails_no_run(resources: Resources) -> None:
    is_sqlite = resources.engine.dialect.name == "sqlite"

    def become_read_only(_conn, cursor, statement, *_):
        if "INTO notes" in statement:
            cursor.execute("PRAGMA query_only = ON" if is_sqlite else "SET TRANSACTION READ ONLY")

    event.listen(resources.engine, "before_cursor_execute", become_read_only)
    with pytest.raises(LedgerUnavailable, match="cannot be used"):
        concluded(resources, [ran(1, DeferredStatement(NOTE, {"text": "kept"})), ran(2)])
