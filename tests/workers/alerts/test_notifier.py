"""Alerts are sent: each as a line in the log, and together to every destination, over real HTTP."""

import logging
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, event, update
from sqlalchemy.exc import OperationalError
from starlette.responses import Response
from structlog.testing import capture_logs

from ingest.backoff import Backoff
from ingest.config.settings import load_settings
from ingest.errors import SettingsError
from workers.alerts.alerts import Alert, AlertKind, AlertRow, find_alerts, raise_alert, resolve_alerts
from workers.alerts.destinations import MAX_HUNG_CALLS, open_destinations
from workers.alerts.notifier import SHOWN, AppriseNotifier, LogNotifier, notifiers
from workers.ledger.database.engine import create_ledger_engine
from workers.ledger.tables import metadata
from workers.ledger.tables.alert_tables import alerts

NO_BACKOFF = Backoff(first=timedelta(), longest=timedelta())
REFUSAL = Response(status_code=503)


class AlertLedger:
    """A ledger with alerts, and the periodic tasks that send them."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def raise_some(self, *subjects: str, kind: AlertKind = AlertKind.CDR_CONFLICT, at: datetime | None = None) -> None:
        with self.engine.begin() as ledger:
            for subject in subjects:
                raise_alert(ledger, Alert(kind, subject, f"Look at {subject}."), at or datetime.now(UTC))

    def rows(self) -> list[AlertRow]:
        with self.engine.begin() as ledger:
            return find_alerts(ledger)

    def log(self, *muted: AlertKind, is_sent: bool = True) -> list[dict[str, Any]]:
        with capture_logs() as lines:
            LogNotifier(self.engine, frozenset(muted), is_sent=is_sent).run()
        return [dict(line) for line in lines]

    def sender(self, *urls: str, ahead: Sequence[timedelta] = (timedelta(),), **settings: Any) -> AppriseNotifier:
        """Make a notifier; the last of `ahead` is how much its wall clock is ahead."""
        given = load_settings(**{"alert_urls": " ".join(urls), "alert_every": "1ms", **settings})
        return AppriseNotifier(
            self.engine,
            open_destinations(given),
            given,
            backoff=NO_BACKOFF,
            wall=lambda: datetime.now(UTC) + ahead[-1],
        )

    def send(self, *urls: str, **settings: Any) -> list[dict[str, Any]]:
        with capture_logs() as lines:
            self.sender(*urls, **settings).run()
        return [dict(line) for line in lines]


@pytest.fixture
def alert_ledger(tmp_path: Path) -> Iterator[AlertLedger]:
    yield from ledger_on(f"sqlite:///{tmp_path / 'ledger.db'}")


@pytest.fixture
def any_ledger(database_url: str) -> Iterator[AlertLedger]:
    """A ledger with alerts, once on each database."""
    yield from ledger_on(database_url)


def ledger_on(database_url: str) -> Iterator[AlertLedger]:
    engine = create_ledger_engine(database_url, creates_file=True)
    metadata.create_all(engine)
    yield AlertLedger(engine)
    engine.dispose()


def url_of(provider: Any) -> str:
    return provider.url.replace("http://", "json://") + "/a-secret-token"


def test_an_alert_is_logged_once_and_that_is_all_without_destinations(any_ledger):
    any_ledger.raise_some("r1", "r2")
    assert [(line["event"], line["sentence"]) for line in any_ledger.log(is_sent=False)] == [
        ("alert.raised", "Look at r1."),
        ("alert.raised", "Look at r2."),
    ]
    assert any_ledger.log(is_sent=False) == []
    assert all(row.told_at for row in any_ledger.rows())


def test_an_alert_is_logged_once_although_the_commit_is_retried(any_ledger):
    any_ledger.raise_some("r1")
    failures = iter([True, True])

    def fail_at_first(_conn):
        if next(failures, False):
            raise OperationalError("COMMIT", None, OSError())

    event.listen(any_ledger.engine, "commit", fail_at_first)
    logged = [line["sentence"] for line in any_ledger.log(is_sent=False) if line["event"] == "alert.raised"]
    assert logged == ["Look at r1."]
    assert all(row.told_at for row in any_ledger.rows())


def test_an_alert_of_a_muted_kind_is_listed_and_not_sent(any_ledger, provider):
    any_ledger.raise_some("r1")
    assert any_ledger.log(AlertKind.CDR_CONFLICT) == []
    any_ledger.send(url_of(provider))
    assert provider.bodies == []
    assert [(row.subject, row.told_at) for row in any_ledger.rows()] == [("r1", None)]


def test_alerts_of_the_same_moment_are_one_notification(any_ledger, provider):
    any_ledger.raise_some("r1", "r2")
    any_ledger.log()
    any_ledger.send(url_of(provider))
    (body,) = provider.bodies
    assert body["title"] == "2 alerts about Plugsurfing's webhooks"
    assert body["message"].split("\n") == ["- Look at r1.", "- Look at r2."]
    assert all(row.told_at for row in any_ledger.rows())
    any_ledger.send(url_of(provider))
    assert len(provider.bodies) == 1


def test_nothing_is_sent_before_it_is_logged(alert_ledger, provider):
    alert_ledger.raise_some("r1")
    alert_ledger.send(url_of(provider))
    assert provider.bodies == []


def test_a_storm_is_one_notification_of_a_bounded_length(alert_ledger, provider):
    alert_ledger.raise_some(*(f"r{number:03}" for number in range(SHOWN + 37)))
    alert_ledger.log()
    alert_ledger.send(url_of(provider))
    (body,) = provider.bodies
    assert "and 37 more" in body["message"]
    assert len(body["message"].split("\n")) == SHOWN + 1
    assert all(row.told_at for row in alert_ledger.rows())


def test_a_destination_that_refuses_is_retried_and_the_others_are_not(any_ledger, provider, other_provider):
    provider.respond_with(REFUSAL, REFUSAL)
    any_ledger.raise_some("r1")
    any_ledger.log()
    sender = any_ledger.sender(url_of(provider), url_of(other_provider))
    with capture_logs() as lines:
        for _ in range(3):
            run_when_due(sender)
    assert [line["event"] for line in lines] == ["destination.failed", "destination.failed", "destination.resumed"]
    assert len(provider.bodies) == 3
    assert len(other_provider.bodies) == 1
    assert any_ledger.rows()[0].told_at is not None


def run_when_due(sender: AppriseNotifier) -> None:
    """Run once, after ALERT_EVERY."""
    time.sleep(0.005)
    sender.run()


def test_a_destination_is_retried_at_once_when_the_clock_was_set_back(alert_ledger, provider):
    ahead = [timedelta(hours=1)]
    sender = alert_ledger.sender(url_of(provider), ahead=ahead)
    provider.respond_with(REFUSAL)
    alert_ledger.raise_some("s1")
    alert_ledger.log()
    sender.run()
    ahead.append(timedelta())
    with alert_ledger.engine.begin() as ledger:
        ledger.execute(update(alerts).values(due_at=datetime.now(UTC)))  # as the clock does then
    run_when_due(sender)
    assert len(provider.bodies) == 2


def test_an_alert_that_was_not_accepted_stays_due(alert_ledger, provider):
    provider.answer = lambda _body: REFUSAL
    alert_ledger.raise_some("r1")
    alert_ledger.log()
    alert_ledger.send(url_of(provider))
    assert alert_ledger.rows()[0].told_at is None
    provider.respond_with()
    alert_ledger.send(url_of(provider))
    assert alert_ledger.rows()[0].told_at is not None


def test_alerts_claimed_by_a_clock_that_died_are_sent_by_another_one_later(any_ledger, provider):
    any_ledger.raise_some("r1")
    any_ledger.log()
    soon = datetime.now(UTC) + timedelta(minutes=1)
    with any_ledger.engine.begin() as ledger:
        ledger.execute(update(alerts).values(due_at=soon))
    any_ledger.send(url_of(provider))
    assert provider.bodies == []
    with any_ledger.engine.begin() as ledger:
        ledger.execute(update(alerts).values(due_at=soon - timedelta(minutes=2)))
    any_ledger.send(url_of(provider))
    assert len(provider.bodies) == 1


def test_a_service_that_hangs_costs_its_timeout_and_a_bounded_number_of_calls(alert_ledger, provider):
    provider.is_working.clear()
    alert_ledger.raise_some("r1")
    alert_ledger.log()
    # Apprise would give up by itself after four seconds.
    sender = alert_ledger.sender(f"{url_of(provider)}?rto=600", alert_timeout="50ms")
    with capture_logs() as lines:
        for _ in range(MAX_HUNG_CALLS + 2):
            run_when_due(sender)
    assert [line["reason"] for line in lines] == [
        *["there was no answer in time"] * MAX_HUNG_CALLS,
        *["earlier calls have not come back yet"] * 2,
    ]
    assert alert_ledger.rows()[0].told_at is None


def test_a_second_notification_waits_for_its_interval(alert_ledger, provider):
    alert_ledger.raise_some("r1")
    alert_ledger.log()
    sender = alert_ledger.sender(url_of(provider), alert_every="1h")
    sender.run()
    alert_ledger.raise_some("r2")
    alert_ledger.log()
    sender.run()
    assert len(provider.bodies) == 1


def test_an_alert_that_could_not_be_sent_for_a_day_is_given_up(alert_ledger, provider):
    alert_ledger.raise_some("r1", at=datetime.now(UTC) - timedelta(hours=25))
    alert_ledger.log()
    assert [(line["event"], line["count"]) for line in alert_ledger.send(url_of(provider))] == [("alerts.not_sent", 1)]
    assert alert_ledger.send(url_of(provider)) == []
    assert provider.bodies == []


def test_neither_the_log_nor_an_error_reveals_the_url(alert_ledger, provider, caplog):
    caplog.set_level(logging.DEBUG)
    provider.answer = lambda _body: REFUSAL
    alert_ledger.raise_some("r1")
    alert_ledger.log()
    lines = alert_ledger.send(url_of(provider))
    assert [(line["service"], line["reason"]) for line in lines] == [("json", "it was not accepted")]
    # The service is in this process, too, and logs its requests.
    ours = [record.getMessage() for record in caplog.records if not record.name.startswith("uvicorn")]
    assert "a-secret-token" not in str([*ours, *lines])


def test_an_alert_that_was_resolved_before_is_sent_as_resolved(alert_ledger, provider):
    alert_ledger.raise_some("r1")
    alert_ledger.log()
    with alert_ledger.engine.begin() as ledger:
        resolve_alerts(ledger, AlertKind.CDR_CONFLICT, ["r1"], datetime(2026, 5, 4, 12, 3, tzinfo=UTC))
    alert_ledger.send(url_of(provider))
    assert provider.bodies[0]["message"] == "Look at r1. (over since 12:03 UTC)"


def test_the_tasks_are_those_that_the_settings_ask_for(alert_ledger):
    assert [task.name for task in notifiers(alert_ledger.engine, load_settings())] == ["alert-log"]
    urls = load_settings(alert_urls="json://localhost/a\njsons://localhost/b")
    assert [task.name for task in notifiers(alert_ledger.engine, urls)] == ["alert-log", "alerts"]


def test_an_unknown_muted_kind_is_refused(alert_ledger):
    with pytest.raises(SettingsError, match="ALERT_MUTED names a kind that does not exist"):
        notifiers(alert_ledger.engine, load_settings(alert_muted="silence,noise"))
