import doctest
from datetime import UTC, datetime

import pytest
from sqlalchemy import create_engine, literal, select

from handlers.kit import testing
from handlers.kit.testing import FakeReader, context_for
from ingest.events import ChargingRecord, SessionStarted, UnknownEvent

AT = datetime(2025, 6, 12, 10, 56, 51, tzinfo=UTC)


def test_the_example_in_the_docstring_runs():
    result = doctest.testmod(testing)
    assert result.attempted
    assert not result.failed


def test_a_context_has_the_time_of_its_event():
    ctx = context_for(SessionStarted(session_id="S", at=AT))
    assert ctx.now() == ctx.delivery.received_at == AT
    assert ctx.attempt == 1
    assert (ctx.delivery.event, ctx.delivery.session_id) == ("SESSION_STARTED", "S")


def test_a_context_can_have_another_time():
    later = AT.replace(year=2026)
    assert context_for(SessionStarted(session_id="S", at=AT), now=later, attempt=3).now() == later


def test_the_context_of_an_event_without_a_time_is_at_noon():
    assert context_for(UnknownEvent(name="SESSION_PAUSED")).now().hour == 12
    assert context_for(ChargingRecord()).delivery.kind == "cdrs"


def test_selects_run_on_the_database_of_the_test():
    with create_engine("sqlite://").connect() as connection:
        ctx = context_for(ChargingRecord(), connection=connection)
        assert [row.answer for row in ctx.read(select(literal(42).label("answer")))] == [42]


def test_a_select_without_a_database_is_a_helpful_error():
    with pytest.raises(LookupError, match=r"context_for\(event, connection="):
        FakeReader().read(select(literal(42)))
