"""Tells of alerts: each with one line in the log, and together with others to every address of ALERT_URLS."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial

import structlog
from sqlalchemy import Connection, Engine

from ingest.backoff import Backoff
from ingest.config.settings import Settings
from ingest.errors import SettingsError
from workers.alerts.alerts import AlertKind
from workers.alerts.destinations import HANGING, Destination, SendResult, open_destinations
from workers.ledger import alert_outbox
from workers.ledger.alert_outbox import PendingAlert
from workers.ledger.database.transaction import read_once, run_in_transaction

log = structlog.get_logger()
now = partial(datetime.now, UTC)

LOOK_EVERY = timedelta(seconds=1)
AT_ONCE = 1000
"""Alerts in one notification at most."""
SHOWN = 20
"""Of these, so many are written out."""
MARGIN = timedelta(seconds=10)
"""How much longer than the timeout alerts are left to who claimed them. If they die, somebody else sends them then."""
RETRY_FOR = timedelta(days=1)
"""An alert that could not be sent for so long is not sent any more; it stays in the log and in the list."""
BACKOFF = Backoff(first=timedelta(seconds=10), longest=timedelta(minutes=10))


def notifiers(engine: Engine, settings: Settings) -> "list[LogNotifier | AppriseNotifier]":
    """Make the duties that tell. Raise SettingsError for an ALERT_URLS or ALERT_MUTED that does not do."""
    addresses = open_destinations(settings)
    logs = LogNotifier(engine, muted_kinds(settings), is_sent=bool(addresses))
    return [logs, AppriseNotifier(engine, addresses, settings)] if addresses else [logs]


class LogNotifier:
    """The clock's duty to log new alerts. It waits for no service."""

    name = "alert-log"
    every = LOOK_EVERY

    def __init__(self, engine: Engine, muted: frozenset[AlertKind], *, is_sent: bool) -> None:
        self._engine = engine
        self._muted = muted
        self._is_sent = is_sent
        # Logged, and not noted in the ledger yet: until that is committed it may be tried several times.
        self._said: set[str] = set()

    def run(self) -> None:
        """Log what is not logged yet: at least once, and once unless the process dies at it."""
        if not read_once(self._engine, alert_outbox.is_any_unlogged):
            return
        run_in_transaction(self._engine, self._log)
        self._said.clear()

    def _log(self, ledger: Connection) -> None:
        found = alert_outbox.unlogged(ledger, AT_ONCE)
        at = now()
        muted = [one.id for one in found if one.kind in self._muted]
        unmuted = [one for one in found if one.kind not in self._muted]
        for one in unmuted:
            if one.id not in self._said:
                self._log_alert(one)
        alert_outbox.mark_logged(ledger, [one.id for one in found], at)
        alert_outbox.suppress(ledger, muted)
        if not self._is_sent:
            alert_outbox.mark_delivered(ledger, [one.id for one in unmuted], at)

    def _log_alert(self, one: PendingAlert) -> None:
        log.warning(
            "alert.raised",
            alert=one.id,
            kind=one.kind,
            sentence=one.sentence,
            session=one.session_id,
            delivery=one.delivery_id,
        )
        self._said.add(one.id)


class AppriseNotifier:
    """The clock's duty to send alerts to the addresses: at least once to each, several in one notification."""

    name = "alerts"
    every = LOOK_EVERY

    def __init__(
        self,
        engine: Engine,
        addresses: Sequence[Destination],
        settings: Settings,
        *,
        backoff: Backoff = BACKOFF,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._addresses = addresses
        self._timeout = settings.alert_timeout
        self._pause = settings.alert_every
        self._backoff = backoff
        self._clock = clock
        self._not_before = clock()
        self._failures = dict.fromkeys((address.name for address in addresses), 0)
        self._next_at = dict.fromkeys(self._failures, datetime.min.replace(tzinfo=now().tzinfo))

    def run(self) -> None:
        """Send what is due, unless something was sent a moment ago; wait for the answers as long as they may take."""
        if self._clock() < self._not_before:
            return
        at = now()
        if not read_once(self._engine, lambda ledger: alert_outbox.is_any_due(ledger, at)):
            return
        until = at + self._timeout + MARGIN
        claimed = run_in_transaction(self._engine, lambda ledger: alert_outbox.claim(ledger, at, until, AT_ONCE))
        over = [one for one in claimed if at - one.raised_at > RETRY_FOR]
        if over:
            run_in_transaction(self._engine, lambda ledger: alert_outbox.suppress(ledger, [one.id for one in over]))
            log.error("alerts.not_sent", count=len(over))
        young = [one for one in claimed if at - one.raised_at <= RETRY_FOR]
        if young:
            sent = self._send(young, at)
            if sent != young:
                self._not_before = self._clock() + self._pause.total_seconds()
            self._mark(sent)

    def _send(self, claimed: Sequence[PendingAlert], at: datetime) -> list[PendingAlert]:
        """Send to each address what it has not taken yet, to all at the same time."""
        calls = []
        for address in self._addresses:
            news = [one for one in claimed if address.name not in one.told]
            waits = (
                timedelta() < self._next_at[address.name] - at <= self._backoff.longest
            )  # else the clock was set back
            if news and not waits:
                calls.append((address, news, address.call(*notification(news))))
        until = time.monotonic() + self._timeout.total_seconds()
        told = {one.id: one.told for one in claimed}
        for address, news, call in calls:
            answer = SendResult(is_taken=False, reason=HANGING)
            if call is not None:
                answer = call.answer(max(until - time.monotonic(), 0.0))
            self._judge(address, answer)
            if answer.is_taken:
                told |= {one.id: (*told[one.id], address.name) for one in news}
        return [replace(one, told=told[one.id]) for one in claimed]

    def _judge(self, address: Destination, answer: SendResult) -> None:
        if answer.is_taken:
            if self._failures[address.name]:
                log.info("address.resumed", address=address.name, service=address.service)
            self._failures[address.name] = 0
            return
        self._failures[address.name] += 1
        span = self._backoff.delay(self._failures[address.name])
        self._next_at[address.name] = now() + span
        log.warning("address.failed", address=address.name, service=address.service, reason=answer.reason)

    def _mark(self, sent: Sequence[PendingAlert]) -> None:
        every = {address.name for address in self._addresses}
        done = [one.id for one in sent if every <= set(one.told)]
        left = [one.id for one in sent if not every <= set(one.told)]
        lacking = {name for one in sent for name in every - set(one.told)}
        again_at = min((self._next_at[name] for name in lacking), default=now())

        def mark(ledger: Connection) -> None:
            alert_outbox.record_delivered(ledger, sent)
            alert_outbox.reschedule(ledger, left, again_at)
            alert_outbox.mark_delivered(ledger, done, now())

        run_in_transaction(self._engine, mark)


def notification(news: Sequence[PendingAlert]) -> tuple[str, str]:
    """Write the title and the text that tell of alerts, however many they are."""
    title = "1 alert" if len(news) == 1 else f"{len(news)} alerts"
    lines = [
        f"{one.sentence} (over since {one.resolved_at:%H:%M} UTC)" if one.resolved_at else one.sentence for one in news
    ]
    more = len(news) - SHOWN
    if more > 0:
        lines = [*lines[:SHOWN], f"… and {more} more, which `webhooks alerts --open` lists."]
    return f"{title} about Plugsurfing's webhooks", "\n".join(f"- {line}" if len(lines) > 1 else line for line in lines)


def muted_kinds(settings: Settings) -> frozenset[AlertKind]:
    """Read ALERT_MUTED. Raise SettingsError for a kind that there is not."""
    try:
        return frozenset(AlertKind(name) for name in settings.alert_muted)
    except ValueError:
        raise SettingsError(
            f"ALERT_MUTED names a kind that does not exist; there are: {', '.join(AlertKind)}."
        ) from None
