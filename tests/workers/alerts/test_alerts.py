"""Alerts in the ledger: one for each cause, until it is gone."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Engine

from workers.alerts.alerts import Alert, AlertKind, find_alerts, raise_alert, resolve_alerts, resolve_by_id
from workers.ledger.database.engine import create_ledger_engine
from workers.ledger.tables import metadata

NOON = datetime(2026, 5, 4, 12, tzinfo=UTC)
LATER = NOON + timedelta(hours=1)
CONFLICT = Alert(AlertKind.CDR_CONFLICT, "request-1", "Two CDRs share a request id.", session_id="s1", delivery_id="d1")


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    engine = create_ledger_engine(database_url, creates_file=True)
    metadata.create_all(engine)
    yield engine
    engine.dispose()


def test_a_cause_is_one_alert_however_often_it_is_found(engine):
    with engine.begin() as ledger:
        assert raise_alert(ledger, CONFLICT, NOON)
        assert not raise_alert(ledger, CONFLICT, LATER)
        assert raise_alert(ledger, replace(CONFLICT, subject="request-2"), LATER)
        assert raise_alert(ledger, replace(CONFLICT, kind=AlertKind.UNREADABLE), LATER + timedelta(hours=1))
    with engine.begin() as ledger:
        found = find_alerts(ledger)
        assert [(one.kind, one.subject) for one in found[1:]] == [
            (AlertKind.CDR_CONFLICT, "request-2"),
            (AlertKind.CDR_CONFLICT, "request-1"),
        ]
        first = found[-1]
        assert (first.sentence, first.session_id, first.delivery_id) == (CONFLICT.sentence, "s1", "d1")
        assert (first.raised_at, first.logged_at, first.told_at, first.resolved_at) == (NOON, None, None, None)


def test_a_cause_that_returns_after_its_alert_was_resolved_is_a_new_alert(engine):
    with engine.begin() as ledger:
        assert raise_alert(ledger, CONFLICT, NOON)
        assert resolve_alerts(ledger, CONFLICT.kind, [CONFLICT.subject, "of-nobody"], LATER) == 1
        assert resolve_alerts(ledger, CONFLICT.kind, [CONFLICT.subject], LATER) == 0
        assert resolve_alerts(ledger, CONFLICT.kind, [], LATER) == 0
        assert raise_alert(ledger, CONFLICT, LATER)
        assert [one.resolved_at for one in find_alerts(ledger)] == [None, LATER]


def test_an_alert_that_a_person_resolved_is_not_raised_again_for_the_same_cause(engine):
    with engine.begin() as ledger:
        raise_alert(ledger, CONFLICT, NOON, since=NOON)
        (alert,) = find_alerts(ledger)
        assert resolve_by_id(ledger, [alert.id, "of-nothing"], LATER) == 1
        assert not raise_alert(ledger, CONFLICT, LATER, since=NOON)
        assert raise_alert(ledger, CONFLICT, LATER, since=LATER + timedelta(seconds=1))


def test_a_list_of_alerts_obeys_its_filters(engine):
    with engine.begin() as ledger:
        raise_alert(ledger, CONFLICT, NOON)
        raise_alert(ledger, Alert(AlertKind.SILENCE, "events", "It is quiet."), LATER)
        resolve_alerts(ledger, AlertKind.SILENCE, ["events"], LATER)
        assert [one.kind for one in find_alerts(ledger, only_open=True)] == [AlertKind.CDR_CONFLICT]
        assert [one.kind for one in find_alerts(ledger, kind=AlertKind.SILENCE)] == [AlertKind.SILENCE]
        assert [one.kind for one in find_alerts(ledger, since=LATER)] == [AlertKind.SILENCE]
        assert [one.kind for one in find_alerts(ledger, limit=1)] == [AlertKind.SILENCE]


def test_a_subject_may_be_any_text(engine):
    strange = replace(CONFLICT, subject="\0\ud800' OR 1=1 --")
    with engine.begin() as ledger:
        assert raise_alert(ledger, strange, NOON)
        assert not raise_alert(ledger, strange, NOON)
