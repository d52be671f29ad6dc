"""The ledger that the pages are measured over is one that workers could have written, and every page of it answers."""

import click
import pytest
from sqlalchemy import func, select

from ingest.config.settings import load_settings
from ingest.wire.timestamps import utc_now
from tests.bench.console_requests import page_cases
from tests.bench.large_ledger import FLEET, LargeLedger, fill_ledger
from tests.bench.pages import COMMANDS, at_application
from workers.cli import main
from workers.console.console_server import create_console_app
from workers.ledger import fee_warnings
from workers.ledger.cdr_queries import CdrFilters
from workers.ledger.cdr_stats import summarize
from workers.ledger.database.engine import create_ledger_engine, read_only
from workers.ledger.database.schema_state import SchemaState, schema_state
from workers.ledger.dead_runs import group_dead_runs
from workers.ledger.fee_warnings import WarningFilters, WarningOutcome
from workers.ledger.invariants import check_invariants
from workers.ledger.tables.core_tables import deliveries, sessions
from workers.lists.driver_record import read_driver

SIZE = LargeLedger(deliveries=2_000, days=2)


@pytest.fixture
def filled(database_url):
    """The engine of a small one of the large ledgers."""
    engine = create_ledger_engine(database_url)
    fill_ledger(engine, SIZE)
    yield engine
    engine.dispose()


def test_it_is_a_ledger_that_workers_could_have_written(filled):
    assert schema_state(filled.url.render_as_string(hide_password=False)) is SchemaState.CURRENT
    with read_only(filled) as ledger:
        assert ledger.scalar(select(func.count()).select_from(deliveries)) == SIZE.deliveries
        assert ledger.scalar(select(func.count()).select_from(sessions)) == SIZE.sessions
        assert list(check_invariants(ledger)) == []
        assert read_driver(ledger, FLEET.upper(), 5).is_known
        assert len(group_dead_runs(ledger, utc_now())) == 3
        outcomes = {each.outcome for each in fee_warnings.find(ledger, WarningFilters(), utc_now())}
        assert outcomes == {WarningOutcome.SENT, WarningOutcome.LATE, WarningOutcome.DEAD}
        found = summarize(ledger, CdrFilters())
        assert (found.cdrs, found.in_conflict, found.repeated > 0) == (248, 6, True)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_that_is_measured_exists(command):
    name, *arguments = command
    found = main.get_command(click.Context(main), name)
    assert found is not None
    found.make_context(name, arguments)


@pytest.mark.slow
def test_every_page_answers(filled, tmp_path):
    url = filled.url.render_as_string(hide_password=False)
    settings, asked = load_settings(data_dir=tmp_path, database_url=url, redis_url="redis://127.0.0.1:1"), []
    at_application(
        create_console_app(settings, filled),
        page_cases(filled, SIZE),
        1,
        lambda case, _what, took: asked.append((case.name, len(took))),
    )
    assert len({name for name, _ in asked}) == len(asked) > 100
    assert {count for _, count in asked} == {1}
