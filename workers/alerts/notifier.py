"""Sends alerts: each as one line in the log, and together with others to every destination of ALERT_URLS."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import structlog
from sqlalchemy import Connection, Engine

from ingest.backoff import Backoff
from ingest.config.settings import Settings
from ingest.errors import SettingsError
from ingest.wire.timestamps import utc_now
from workers.alerts.alerts import AlertKind
from workers.alerts.destinations import Destination, SendResult, open_destinations
from workers.ledger import alert_outbox
from workers.ledger.alert_outbox import PendingAlert
from workers.ledger.database.transaction import read_once, run_in_transaction
from workers.resilience.guarded_call import deadline_in

log = structlog.get_logger()

POLL_INTERVAL = timedelta(seconds=1)
BATCH_SIZE = 1000
"""The most alerts in one notification."""
SHOWN = 20
"""Of these, so many are written out."""
CLAIM_MARGIN = timedelta(seconds=10)
"""How much longer than the timeout a claim lasts. If the clock dies, another one sends the alerts after that."""
RETRY_FOR = timedelta(days=1)
"""An alert that could not be sent for so long is given up; it stays in the log and in the list."""
BACKOFF = Backoff(first=timedelta(seconds=10), longest=timedelta(minutes=10))


def notifiers(
    engine: Engine, settings: Settings, *, others_send: bool = False
) -> "list[LogNotifier | AppriseNotifier]":
    """Return the periodic tasks that send alerts. Raise SettingsError for a bad ALERT_URLS or ALERT_MUTED.

    With `others_send`, a process without ALERT_URLS leaves what it has logged to one that may have them.
    """
    destinations = open_destinations(settings)
    logs = LogNotifier(engine, muted_kinds(settings), is_sent=bool(destinations) or others_send)
    return [logs, AppriseNotifier(engine, destinations, settings)] if destinations else [logs]


class LogNotifier:
    """The periodic task that logs new alerts; unless they are sent, too, that is all. It calls no service."""

    name = "alert-log"
    every = POLL_INTERVAL

    def __init__(self, engine: Engine, muted: frozenset[AlertKind], *, is_sent: bool) -> None:
        self._engine = engine
        self._muted = muted
        self._is_sent = is_sent
        # Logged, and not marked as such yet: the transaction may be tried several times until it is committed.
        self._logged: set[str] = set()

    def run(self) -> None:
        """Log new alerts: at least once, and exactly once unless the process dies while doing so."""
        if not read_once(self._engine, self._is_any_waiting):
            return
        run_in_transaction(self._engine, self._log)
        self._logged.clear()

    def _is_any_waiting(self, ledger: Connection) -> bool:
        if alert_outbox.is_any_unlogged(ledger):
            return True
        # A worker may have logged it, and left it to us.
        return not self._is_sent and alert_outbox.is_any_due(ledger, utc_now())

    def _log(self, ledger: Connection) -> None:
        found = alert_outbox.unlogged(ledger, BATCH_SIZE)
        at = datetime.now(UTC)
        muted = [one.id for one in found if one.kind in self._muted]
        for one in found:
            if one.kind not in self._muted and one.id not in self._logged:
                about = {"kind": one.kind, "session": one.session_id, "delivery": one.delivery_id}
                log.warning("alert.raised", alert=one.id, sentence=one.sentence, **about)
                self._logged.add(one.id)
        alert_outbox.mark_logged(ledger, [one.id for one in found], at)
        alert_outbox.reschedule(ledger, muted, None)
        if not self._is_sent:
            alert_outbox.mark_due_delivered(ledger, at)


class AppriseNotifier:
    """The periodic task that sends alerts: at least once to each destination, several in one notification."""

    name = "alerts"
    every = POLL_INTERVAL

    def __init__(  # noqa: PLR0913 - the last three are for tests
        self,
        engine: Engine,
        destinations: Sequence[Destination],
        settings: Settings,
        *,
        backoff: Backoff = BACKOFF,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], datetime] = utc_now,
    ) -> None:
        self._engine = engine
        self._destinations = destinations
        self._timeout = settings.alert_timeout
        self._pause = settings.alert_every
        self._backoff = backoff
        self._clock = clock
        self._wall = wall
        self._not_before = clock()
        self._failures = dict.fromkeys((each.name for each in destinations), 0)
        self._next_at = dict.fromkeys(self._failures, datetime.min.replace(tzinfo=UTC))

    def run(self) -> None:
        """Send what is due, unless something was sent within ALERT_EVERY; wait up to the timeout for the results."""
        if self._clock() < self._not_before:
            return
        at = self._wall()
        if not read_once(self._engine, lambda ledger: alert_outbox.is_any_due(ledger, at)):
            return
        until = at + self._timeout + CLAIM_MARGIN
        claimed = run_in_transaction(self._engine, lambda ledger: alert_outbox.claim(ledger, at, until, BATCH_SIZE))
        too_old = [one.id for one in claimed if at - one.raised_at > RETRY_FOR]
        if too_old:
            run_in_transaction(self._engine, lambda ledger: alert_outbox.reschedule(ledger, too_old, None))
            log.error("alerts.not_sent", count=len(too_old))
        pending = [one for one in claimed if at - one.raised_at <= RETRY_FOR]
        if pending:
            sent = self._send(pending, at)
            if sent != pending:
                self._not_before = self._clock() + self._pause.total_seconds()
            self._mark(sent)

    def _send(self, claimed: Sequence[PendingAlert], at: datetime) -> list[PendingAlert]:
        """Send to each destination what it has not accepted yet, to all at the same time."""
        calls = []
        for destination in self._destinations:
            news = [one for one in claimed if destination.name not in one.told]
            # A wait beyond the longest means that the clock was set back.
            waits = timedelta() < self._next_at[destination.name] - at <= self._backoff.longest
            if news and not waits:
                calls.append((destination, news, destination.start(*notification(news))))
        deadline = deadline_in(self._timeout)
        accepted = {one.id: one.told for one in claimed}
        for destination, news, call in calls:
            result = call.result(deadline)
            self._record_result(destination, result)
            if result.is_accepted:
                accepted |= {one.id: (*accepted[one.id], destination.name) for one in news}
        return [replace(one, told=accepted[one.id]) for one in claimed]

    def _record_result(self, destination: Destination, result: SendResult) -> None:
        name, service = destination.name, destination.service
        if result.is_accepted:
            if self._failures[name]:
                log.info("destination.resumed", destination=name, service=service)
            self._failures[name] = 0
            return
        self._failures[name] += 1
        self._next_at[name] = self._wall() + self._backoff.delay(self._failures[name])
        log.warning("destination.failed", destination=name, service=service, reason=result.reason)

    def _mark(self, sent: Sequence[PendingAlert]) -> None:
        every = {each.name for each in self._destinations}
        missing = {one.id: every - set(one.told) for one in sent}
        left = [alert for alert, names in missing.items() if names]
        again_at = min((self._next_at[name] for names in missing.values() for name in names), default=self._wall())

        def mark(ledger: Connection) -> None:
            alert_outbox.record_delivered(ledger, sent)
            alert_outbox.reschedule(ledger, left, again_at)
            alert_outbox.mark_delivered(ledger, [alert for alert, names in missing.items() if not names], self._wall())

        run_in_transaction(self._engine, mark)


def notification(news: Sequence[PendingAlert]) -> tuple[str, str]:
    """Return the title and the text of one notification of any number of alerts."""
    title = "1 alert" if len(news) == 1 else f"{len(news)} alerts"
    lines = [
        f"{one.sentence} (over since {one.resolved_at:%H:%M} UTC)" if one.resolved_at else one.sentence for one in news
    ]
    more = len(news) - SHOWN
    if more > 0:
        lines = [*lines[:SHOWN], f"… and {more} more, which `webhooks alerts --open` lists."]
    return f"{title} about Plugsurfing's webhooks", "\n".join(f"- {line}" if len(lines) > 1 else line for line in lines)


def muted_kinds(settings: Settings) -> frozenset[AlertKind]:
    """Parse ALERT_MUTED. Raise SettingsError for an unknown kind."""
    try:
        return frozenset(AlertKind(name) for name in settings.alert_muted)
    except ValueError:
        raise SettingsError(
            f"ALERT_MUTED names a kind that does not exist; there are: {', '.join(AlertKind)}."
        ) from None
