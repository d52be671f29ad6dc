"""What runs came to is committed together; what one of them wants written and cannot be harms only that one."""

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
from workers.execution.runner import RunResult
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
def equipment(database_url: str, tmp_path: Path) -> Resources:
    engine = create_ledger_engine(database_url)
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


def concluded(equipment: Resources, results: list[RunResult]) -> dict[str, Outcome]:
    arrived = [
        Delivery(each.delivery_id, "events", None, None, NOON, "current", None, {}, b"{}", 1, "here")
        for each in results
    ]

    def keep(ledger):
        deliveries.store(ledger, arrived, {each.id: (DeliveryState.RUNNING, None) for each in arrived})
        return commit_new_runs(ledger, equipment, results, "sessions")

    run_in_transaction(equipment.engine, keep, retry_for=0.5)
    with equipment.engine.connect() as ledger:
        shown = [deliveries.get(ledger, each.id) for each in arrived]
    return {row.id: run.outcome for row in shown if row for run in row.runs}


def written(equipment: Resources) -> list[str]:
    with equipment.engine.connect() as ledger:
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
def test_what_a_run_cannot_write_is_its_own_failure(equipment: Resources, bad: DeferredStatement) -> None:
    results = [
        ran(number, DeferredStatement(NOTE, {"text": f"note {number}", "number": number})) for number in range(7)
    ]
    results[3] = ran(3, bad)
    found = concluded(equipment, results)
    assert found.pop("d3") is Outcome.AGAIN
    assert set(found.values()) == {Outcome.DONE}
    assert written(equipment) == [f"note {number}" for number in (0, 1, 2, 4, 5, 6)]


@pytest.mark.parametrize("title", [{"en": "Fee"}, None, object(), "half a character \ud800"])
def test_what_a_run_cannot_push_is_its_own_failure(equipment: Resources, title: object) -> None:
    results = [
        ran(number, DeferredStatement(NOTE, {"text": f"note {number}", "number": number})) for number in range(5)
    ]
    results[3] = replace(results[3], writes=DeferredEffects((Push("u1", title, "body", "key"),)))
    found = concluded(equipment, results)
    assert found.pop("d3") is Outcome.AGAIN
    assert set(found.values()) == {Outcome.DONE}
    with equipment.engine.connect() as ledger:
        assert sorted(push.delivery_id for push in pushes.find(ledger)) == ["d0", "d1", "d2", "d4"]


def test_a_run_that_never_can_write_is_dead_in_the_end(equipment: Resources) -> None:
    last = equipment.settings.retry_attempts
    assert concluded(equipment, [ran(1, DeferredStatement(insert(never_made)), attempt=last)]) == {"d1": Outcome.DEAD}


def test_a_database_out_of_order_is_no_runs_failure(equipment: Resources) -> None:
    is_sqlite = equipment.engine.dialect.name == "sqlite"

    def become_read_only(_conn, cursor, statement, *_):
        if "INTO notes" in statement:
            cursor.execute("PRAGMA query_only = ON" if is_sqlite else "SET TRANSACTION READ ONLY")

    event.listen(equipment.engine, "before_cursor_execute", become_read_only)
    with pytest.raises(LedgerUnavailable, match="cannot be used"):
        concluded(equipment, [ran(1, DeferredStatement(NOTE, {"text": "kept"})), ran(2)])
