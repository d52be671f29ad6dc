"""Months are copied so that rules hold, retention finds them, and what grows is said."""

from datetime import timedelta

import pytest
from sqlalchemy import func, select

from ingest.config.settings import load_settings
from ingest.wire.timestamps import utc_now
from tests.bench.large_ledger import LargeLedger, fill_ledger
from tests.bench.report import Row
from tests.bench.year import MONTH, MUST_BE_FLAT, PastMonth, YearScale, flatness, retention, sizes
from workers.ledger.database.engine import create_ledger_engine, read_only
from workers.ledger.invariants import check_invariants
from workers.ledger.states import DeliveryState
from workers.ledger.tables.core_tables import deliveries, sessions
from workers.privacy.retention import RetentionTask

MADE = 400


@pytest.fixture
def engine(database_url):
    engine = create_ledger_engine(database_url)
    fill_ledger(engine, LargeLedger(MADE, days=MONTH.days))
    yield engine
    engine.dispose()


def test_months_are_copied_and_retention_deletes_those_that_are_over(engine):
    made = PastMonth(engine)
    for month in (1, 2, 3):
        for number in (0, 1):
            made.copy(month, number)
    counts = [select(func.count()).select_from(table) for table in (deliveries, sessions)]
    with read_only(engine) as ledger:
        assert [ledger.scalar(count) for count in counts] == [6 * MADE, 6 * MADE // 4]
        assert list(check_invariants(ledger)) == []
        assert sizes(ledger)["deliveries"] > 0
    settings = load_settings().model_copy(update=retention(YearScale(MADE, 3, bodies=30, rows=60)))
    RetentionTask(engine, settings, now=lambda: utc_now() + 3 * MONTH, sleep=lambda _s: None).delete()
    with read_only(engine) as ledger:
        left = ledger.scalar(counts[0])
        with_body = ledger.scalar(counts[0].where(deliveries.c.body_deleted_at.is_(None)))
        is_old_and_dead = (deliveries.c.state == DeliveryState.DEAD, deliveries.c.received_at < utc_now() + 2 * MONTH)
        old_dead = ledger.scalar(counts[0].where(*is_old_and_dead))
        assert list(check_invariants(ledger)) == []
        oldest = ledger.scalar(select(func.min(deliveries.c.received_at)))
    assert 4 * MADE - MADE // 50 <= left <= 4 * MADE
    assert 2 * MADE - MADE // 50 <= with_body - old_dead <= 2 * MADE  # a dead letter keeps its body
    assert oldest > utc_now() + MONTH - timedelta(minutes=5)


def test_what_grows_in_the_last_quarter_is_named():
    def rows(then=100.0, **last):
        flat = dict.fromkeys(MUST_BE_FLAT, then)
        return [
            Row(f"month {n}", {key: [value] for key, value in (flat | (last if n > 3 else {})).items()})
            for n in range(1, 7)
        ]

    assert flatness(rows()).endswith("× 1.00: flat.")
    assert flatness(rows(mb=130.0, check_s=114.0)).endswith("NOT FLAT: MB.")
    assert flatness(rows(slice_ms=116.0)).endswith("NOT FLAT: ms of a slice.")
    assert flatness(rows(0.6, slice_ms=1.0)).endswith(": flat.")  # of a machine that does something else, too
