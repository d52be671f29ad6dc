"""Evaluates the alert rules, and raises one alert for each finding.

The rules read the ledger and the registry of processes: what should be there and is not, and what should not be there.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial

import redis
import structlog
from sqlalchemy import Connection, Engine

from ingest.config.settings import Settings
from workers.alerts import rules
from workers.alerts.alerts import raise_alert, resolve_alerts
from workers.alerts.condition_rules import LEDGER_RULES, ConditionRule
from workers.alerts.process_conditions import ProcessObserver
from workers.alerts.rules import Finding, RuleResult
from workers.ledger.database.engine import chunks
from workers.ledger.database.transaction import LedgerNotMigrated, LedgerUnavailable, read_once, run_in_transaction

log = structlog.get_logger()

INTERVAL = timedelta(seconds=10)
"""How often the rules are evaluated of which an alert must come within a minute."""
RULE_INTERVAL = timedelta(minutes=1)
SLOW_RULE_INTERVAL = timedelta(minutes=10)
SETTLED_AFTER = timedelta(minutes=5)
"""How long after trouble of our own the silence rule waits: what was delayed has to reach the ledger first."""

BATCH_SIZE = 50
"""Alerts that are raised in one transaction: on SQLite all others wait for it."""

Clock = Callable[[], float]


@dataclass
class Rule:
    """A rule, and the pause after it: one that reads many sessions is evaluated less often."""

    evaluate: Callable[[Connection, datetime], RuleResult]
    pause: timedelta = RULE_INTERVAL
    not_before: float = float("-inf")


class AlertEvaluator:
    """The periodic task that evaluates the rules. Several clocks raise no alert twice."""

    name = "alert-rules"
    every = INTERVAL

    def __init__(
        self,
        engine: Engine,
        settings: Settings,
        connection: redis.Redis | None = None,
        *,
        clock: Clock = time.monotonic,
    ) -> None:
        self._engine = engine
        self._clock = clock
        self._observer = None if connection is None else ProcessObserver(connection, clock=clock)
        self._well_since: float | None = None
        self._rules = self._enabled_rules(settings)

    def run(self) -> None:
        """Evaluate all rules once.

        A rule that fails does not stop the others: the first error is raised at the end. Raises LedgerUnavailable at
        once, as it would stop all.
        """
        if self._observer is not None:
            self._observer.observe()
        at, moment = datetime.now(UTC), self._clock()
        first_error: Exception | None = None
        for rule in self._rules:
            if moment < rule.not_before:
                continue
            try:
                self._apply(rule, at)
            except LedgerNotMigrated as error:
                first_error = first_error or error
            except LedgerUnavailable:
                self._well_since = None
                raise
            except Exception as error:  # noqa: BLE001  whatever is wrong with one rule, the others are evaluated
                first_error = first_error or error
            else:
                rule.not_before = moment + rule.pause.total_seconds()
        if self._well_since is None:
            self._well_since = moment
        if first_error is not None:
            raise first_error

    def _enabled_rules(self, settings: Settings) -> list[Rule]:
        """Return the rules that a setting of 0 does not turn off."""
        open_for, no_cdr_for, gap = settings.watch_session_open, settings.watch_cdr_missing, settings.watch_gap
        quiet, busy = settings.watch_silence, settings.watch_busy
        rules_by_setting: Sequence[tuple[timedelta, Rule]] = (
            (open_for, Rule(partial(rules.open_sessions, span=open_for))),
            (no_cdr_for, Rule(partial(rules.missing_cdrs, span=no_cdr_for), SLOW_RULE_INTERVAL)),
            (gap, Rule(partial(rules.downtime, shortest=gap))),
            (quiet, Rule(partial(self._silence, span=quiet, busy=busy))),
        )
        always = [*map(Rule, rules.cdr_rules()), Rule(rules.unreadable), Rule(rules.dead_letters)]
        conditions = [
            *(ConditionRule(kind, find, self._clock) for kind, find in LEDGER_RULES.items()),
            *(self._observer.rules() if self._observer is not None else ()),
        ]
        return [
            *(Rule(each, timedelta()) for each in conditions),
            *always,
            *(rule for setting, rule in rules_by_setting if setting),
        ]

    def _silence(self, ledger: Connection, at: datetime, *, span: timedelta, busy: int) -> RuleResult:
        is_settled = self._well_since is not None and self._clock() - self._well_since >= SETTLED_AFTER.total_seconds()
        return rules.silence(ledger, at, span=span, busy=busy, may_raise=is_settled)

    def _apply(self, rule: Rule, at: datetime) -> None:
        result = read_once(self._engine, lambda ledger: rule.evaluate(ledger, at))
        for kind, subjects in result.resolved.items():
            run_in_transaction(self._engine, partial(resolve_alerts, kind=kind, subjects=subjects, now=at))
            log.info("alerts.resolved", kind=kind, count=len(subjects))
        for some in chunks(result.findings, BATCH_SIZE):
            run_in_transaction(self._engine, partial(_raise, findings=some, at=at))


def _raise(ledger: Connection, findings: Sequence[Finding], at: datetime) -> None:
    for finding in findings:
        raise_alert(ledger, finding.alert, at, since=finding.since)
