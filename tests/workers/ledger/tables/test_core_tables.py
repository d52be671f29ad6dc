"""The tables of the core: partial indexes, conditions and JSON, the same on SQLite and PostgreSQL."""

import pytest
from sqlalchemy import insert
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import IntegrityError
from sqlalchemy.schema import CreateIndex

from handlers.kit.statuses import FINAL_STATUSES
from workers.ledger.tables import metadata
from workers.ledger.tables.core_tables import IS_OPEN, runs, to_json


def test_the_sessions_of_the_partial_index_are_those_without_a_final_status():
    assert {word.strip(" ()'") for word in str(IS_OPEN).partition("NOT IN")[2].split(",")} == FINAL_STATUSES


@pytest.mark.parametrize("dialect", [sqlite.dialect(), postgresql.dialect()], ids=["sqlite", "postgresql"])
def test_a_partial_index_has_its_condition_on_both_databases(dialect):
    (due,) = (index for index in runs.indexes if index.name == "runs_due")
    assert str(CreateIndex(due).compile(dialect=dialect)).endswith("(due_at) WHERE due_at IS NOT NULL")


@pytest.mark.parametrize(("outcome", "is_due"), [("waiting", False), ("again", False), ("done", True)])
def test_a_run_is_due_exactly_while_it_is_open(ledger, noon, outcome, is_due):
    row = {"delivery_id": "d1", "handler": "warn", "queue": "urgent", "attempts": 1, "deaths": 0}
    with pytest.raises(IntegrityError), ledger.begin() as conn:
        conn.execute(insert(runs).values(**row, outcome=outcome, due_at=noon if is_due else None))


def test_json_is_compact():
    assert to_json({"a": [1, None]}) == '{"a":[1,null]}'


def test_the_metadata_has_the_tables_of_every_module():
    assert {"deliveries", "alerts", "authorizations", "rereads", "gaps", "cdrs"} <= set(metadata.tables)
