"""The watchdog: looks once a minute for what nobody would notice, and raises one alert for each cause.

It looks at the ledger alone: at what should have come and has not, and at what has come and should not have.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial

import structlog
from sqlalchemy import Connection, Engine

from ingest.config.settings import Settings
from workers.alerts import rules
from workers.alerts.alerts import raise_alert, resolve_alerts
from workers.alerts.rules import Finding, RuleResult
from workers.ledger.database.engine import chunks
from workers.ledger.database.transaction import LedgerNotMigrated, LedgerUnavailable, read_once, run_in_transaction

log = structlog.get_logger()

LOOK_EVERY = timedelta(minutes=1)
SLOW_RULE_INTERVAL = timedelta(minutes=10)
SETTLED_AFTER = timedelta(minutes=5)
"""After trouble of our own, silence is nobody else's before what waited has reached the ledger."""

AT_ONCE = 50
"""Alerts that are raised in one transaction: on SQLite everybody else waits for it."""

Clock = Callable[[], float]


@dataclass
class Rule:
    """One thing to look for, and how long to rest after that: what goes through many sessions rests for longer."""

    look: Callable[[Connection, datetime], RuleResult]
    pause: timedelta = timedelta()
    not_before: float = float("-inf")


class AlertEvaluator:
    """The clock's duty to look. Several clocks raise no alert twice."""

    name = "watchdog"
    every = LOOK_EVERY

    def __init__(self, engine: Engine, settings: Settings, *, clock: Clock = time.monotonic) -> None:
        self._engine = engine
        self._clock = clock
        self._well_since: float | None = None
        self._rules = self._enabled_rules(settings)

    def run(self) -> None:
        """Look for everything once.

        A rule that fails keeps no other from looking: the first failure is raised at the end. Raises LedgerUnavailable
        at once when the ledger is away.
        """
        at, moment = datetime.now(UTC), self._clock()
        failure: Exception | None = None
        for rule in self._rules:
            if moment < rule.not_before:
                continue
            try:
                self._apply(rule, at)
            except LedgerNotMigrated as this:
                failure = failure or this
            except LedgerUnavailable:
                self._well_since = None
                raise
            except Exception as this:  # noqa: BLE001  whatever is wrong with one rule, the others have to look
                failure = failure or this
            else:
                rule.not_before = moment + rule.pause.total_seconds()
        if self._well_since is None:
            self._well_since = moment
        if failure is not None:
            raise failure

    def _enabled_rules(self, settings: Settings) -> list[Rule]:
        """Leave out what a setting of 0 turns off."""
        spans: Sequence[tuple[timedelta, Rule]] = (
            (settings.watch_session_open, Rule(partial(rules.open_sessions, span=settings.watch_session_open))),
            (
                settings.watch_cdr_missing,
                Rule(partial(rules.missing_cdrs, span=settings.watch_cdr_missing), SLOW_RULE_INTERVAL),
            ),
            (settings.watch_gap, Rule(partial(rules.gaps, shortest=settings.watch_gap))),
            (
                settings.watch_silence,
                Rule(partial(self._silence, span=settings.watch_silence, busy=settings.watch_busy)),
            ),
        )
        always = [Rule(rules.Conflicts()), Rule(rules.unreadable), Rule(rules.dead_letters)]
        return [*always, *(rule for span, rule in spans if span)]

    def _silence(self, ledger: Connection, at: datetime, *, span: timedelta, busy: int) -> RuleResult:
        is_settled = self._well_since is not None and self._clock() - self._well_since >= SETTLED_AFTER.total_seconds()
        return rules.silence(ledger, at, span=span, busy=busy, may_raise=is_settled)

    def _apply(self, rule: Rule, at: datetime) -> None:
        found = read_once(self._engine, lambda ledger: rule.look(ledger, at))
        for kind, subjects in found.resolved.items():
            run_in_transaction(self._engine, partial(resolve_alerts, kind=kind, subjects=subjects, now=at))
            log.info("alerts.resolved", kind=kind, count=len(subjects))
        for some in chunks(found.causes, AT_ONCE):
            run_in_transaction(self._engine, partial(_raise, causes=some, at=at))


def _raise(ledger: Connection, causes: Sequence[Finding], at: datetime) -> None:
    for cause in causes:
        raise_alert(ledger, cause.alert, at, since=cause.since)
