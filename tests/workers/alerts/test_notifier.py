"""Alerts are told: each with a line in the log, and together to every address, over real HTTP."""

import logging
import time
from collections.abc import Iterator
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
from workers.ledger.tables.alerts import alerts

AT_ONCE_AGAIN = Backoff(first=timedelta(), longest=timedelta())
REFUSAL = Response(status_code=503)


class Desk:
    """A ledger with alerts, and the duties that tell of them."""

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

    def sender(self, *urls: str, **settings: Any) -> AppriseNotifier:
        told = load_settings(**{"alert_urls": " ".join(urls), "alert_every": "1ms", **settings})
        return AppriseNotifier(self.engine, open_destinations(told), told, backoff=AT_ONCE_AGAIN)

    def send(self, *urls: str, **settings: Any) -> list[dict[str, Any]]:
        with capture_logs() as lines:
            self.sender(*urls, **settings).run()
        return [dict(line) for line in lines]


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    yield from desk_on(f"sqlite:///{tmp_path / 'ledger.db'}")


@pytest.fixture
def any_desk(database_url: str) -> Iterator[Desk]:
    """A desk, once on each database."""
    yield from desk_on(database_url)


def desk_on(database_url: str) -> Iterator[Desk]:
    engine = create_ledger_engine(database_url)
    metadata.create_all(engine)
    yield Desk(engine)
    engine.dispose()


def url_of(provider: Any) -> str:
    return provider.url.replace("http://", "json://") + "/a-secret-token"


def test_an_alert_is_logged_once_and_told_by_that_when_there_is_nobody_else(any_desk):
    any_desk.raise_some("r1", "r2")
    assert [(line["event"], line["sentence"]) for line in any_desk.log(is_sent=False)] == [
        ("alert.raised", "Look at r1."),
        ("alert.raised", "Look at r2."),
    ]
    assert any_desk.log(is_sent=False) == []
    assert all(row.told_at for row in any_desk.rows())


def test_an_alert_is_logged_once_though_noting_it_is_tried_again(any_desk):
    any_desk.raise_some("r1")
    failures = iter([True, True])

    def fail_at_first(_conn):
        if next(failures, False):
            raise OperationalError("COMMIT", None, OSError())

    event.listen(any_desk.engine, "commit", fail_at_first)
    said = [line["sentence"] for line in any_desk.log(is_sent=False) if line["event"] == "alert.raised"]
    assert said == ["Look at r1."]
    assert all(row.told_at for row in any_desk.rows())


def test_a_kind_that_is_muted_is_listed_and_not_told(any_desk, provider):
    any_desk.raise_some("r1")
    assert any_desk.log(AlertKind.CDR_CONFLICT) == []
    any_desk.send(url_of(provider))
    assert provider.bodies == []
    assert [(row.subject, row.told_at) for row in any_desk.rows()] == [("r1", None)]


def test_alerts_that_come_together_are_one_notification(any_desk, provider):
    any_desk.raise_some("r1", "r2")
    any_desk.log()
    any_desk.send(url_of(provider))
    (body,) = provider.bodies
    assert body["title"] == "2 alerts about Plugsurfing's webhooks"
    assert body["message"].split("\n") == ["- Look at r1.", "- Look at r2."]
    assert all(row.told_at for row in any_desk.rows())
    any_desk.send(url_of(provider))
    assert len(provider.bodies) == 1


def test_nothing_is_sent_before_the_log_has_it(desk, provider):
    desk.raise_some("r1")
    desk.send(url_of(provider))
    assert provider.bodies == []


def test_a_storm_is_one_notification_of_a_bounded_length(desk, provider):
    desk.raise_some(*(f"r{number:03}" for number in range(SHOWN + 37)))
    desk.log()
    desk.send(url_of(provider))
    (body,) = provider.bodies
    assert "and 37 more" in body["message"]
    assert len(body["message"].split("\n")) == SHOWN + 1
    assert all(row.told_at for row in desk.rows())


def test_an_address_that_refuses_is_tried_again_and_the_others_are_not(any_desk, provider, other_provider):
    provider.says(REFUSAL, REFUSAL)
    any_desk.raise_some("r1")
    any_desk.log()
    sender = any_desk.sender(url_of(provider), url_of(other_provider))
    with capture_logs() as lines:
        for _ in range(3):
            until_due(sender)
    assert [line["event"] for line in lines] == ["address.failed", "address.failed", "address.resumed"]
    assert len(provider.bodies) == 3
    assert len(other_provider.bodies) == 1
    assert any_desk.rows()[0].told_at is not None


def until_due(sender: AppriseNotifier) -> None:
    """Take one turn that is not too early."""
    time.sleep(0.005)  # ALERT_EVERY
    sender.run()


def test_an_address_is_tried_again_at_once_when_the_clock_was_set_back(desk, provider, monkeypatch):
    sender = desk.sender(url_of(provider))
    provider.says(REFUSAL)
    ahead = timedelta(hours=1)
    monkeypatch.setattr("workers.alerts.notifier.now", lambda: datetime.now(UTC) + ahead)
    desk.raise_some("s1")
    desk.log()
    sender.run()
    ahead = timedelta()
    with desk.engine.begin() as ledger:
        ledger.execute(update(alerts).values(due_at=datetime.now(UTC)))  # as is done then
    until_due(sender)
    assert len(provider.bodies) == 2


def test_an_alert_that_was_not_taken_stays_due(desk, provider):
    provider.answer = lambda _body: REFUSAL
    desk.raise_some("r1")
    desk.log()
    desk.send(url_of(provider))
    assert desk.rows()[0].told_at is None
    provider.says()
    desk.send(url_of(provider))
    assert desk.rows()[0].told_at is not None


def test_what_was_claimed_by_a_clock_that_died_is_sent_by_another_one_later(any_desk, provider):
    any_desk.raise_some("r1")
    any_desk.log()
    soon = datetime.now(UTC) + timedelta(minutes=1)
    with any_desk.engine.begin() as ledger:
        ledger.execute(update(alerts).values(due_at=soon))
    any_desk.send(url_of(provider))
    assert provider.bodies == []
    with any_desk.engine.begin() as ledger:
        ledger.execute(update(alerts).values(due_at=soon - timedelta(minutes=2)))
    any_desk.send(url_of(provider))
    assert len(provider.bodies) == 1


def test_a_service_that_hangs_costs_its_timeout_and_is_not_asked_without_end(desk, provider):
    provider.works.clear()
    desk.raise_some("r1")
    desk.log()
    # Apprise would give up by itself after four seconds.
    sender = desk.sender(f"{url_of(provider)}?rto=600", alert_timeout="50ms")
    with capture_logs() as lines:
        for _ in range(MAX_HUNG_CALLS + 2):
            until_due(sender)
    assert [line["reason"] for line in lines] == [
        *["there was no answer in time"] * MAX_HUNG_CALLS,
        *["earlier calls have not come back yet"] * 2,
    ]
    assert desk.rows()[0].told_at is None


def test_a_second_notification_waits_for_its_time(desk, provider):
    desk.raise_some("r1")
    desk.log()
    sender = desk.sender(url_of(provider), alert_every="1h")
    sender.run()
    desk.raise_some("r2")
    desk.log()
    sender.run()
    assert len(provider.bodies) == 1


def test_what_could_not_be_sent_for_a_day_is_given_up(desk, provider):
    desk.raise_some("r1", at=datetime.now(UTC) - timedelta(hours=25))
    desk.log()
    assert [(line["event"], line["count"]) for line in desk.send(url_of(provider))] == [("alerts.not_sent", 1)]
    assert desk.send(url_of(provider)) == []
    assert provider.bodies == []


def test_neither_the_log_nor_an_error_says_the_address(desk, provider, caplog):
    caplog.set_level(logging.DEBUG)
    provider.answer = lambda _body: REFUSAL
    desk.raise_some("r1")
    desk.log()
    lines = desk.send(url_of(provider))
    assert [(line["service"], line["reason"]) for line in lines] == [("json", "it was not taken")]
    # The service is in this process, too, and writes down who calls it.
    ours = [record.getMessage() for record in caplog.records if not record.name.startswith("uvicorn")]
    assert "a-secret-token" not in str([*ours, *lines])


def test_a_cause_that_is_gone_by_then_is_told_as_such(desk, provider):
    desk.raise_some("r1")
    desk.log()
    with desk.engine.begin() as ledger:
        resolve_alerts(ledger, AlertKind.CDR_CONFLICT, ["r1"], datetime(2026, 5, 4, 12, 3, tzinfo=UTC))
    desk.send(url_of(provider))
    assert provider.bodies[0]["message"] == "Look at r1. (over since 12:03 UTC)"


def test_the_duties_are_those_that_the_settings_ask_for(desk):
    assert [duty.name for duty in notifiers(desk.engine, load_settings())] == ["alert-log"]
    urls = load_settings(alert_urls="json://localhost/a\njsons://localhost/b")
    assert [duty.name for duty in notifiers(desk.engine, urls)] == ["alert-log", "alerts"]


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (
            {"alert_urls": "json://localhost nonsense://a-secret"},
            "ALERT_URLS: number 2 is not a URL that Apprise knows",
        ),
        ({"alert_urls": " "}, "ALERT_URLS is set, but empty"),
        ({"alert_muted": "silence,noise"}, "ALERT_MUTED names a kind that does not exist"),
    ],
)
def test_settings_that_do_not_do_are_refused_with_a_sentence(desk, settings, sentence):
    with pytest.raises(SettingsError, match=sentence) as refused:
        notifiers(desk.engine, load_settings(**settings))
    assert "a-secret" not in str(refused.value)


def test_without_the_extra_addresses_are_refused(desk, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(SettingsError, match=r"plugsurfing-webhooks\[alerts\]"):
        notifiers(desk.engine, load_settings(alert_urls="json://localhost"))
