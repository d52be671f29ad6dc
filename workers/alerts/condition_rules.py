"""The alert rules about what is wrong at the moment: each alert is resolved when its condition has passed."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from sqlalchemy import Connection

from ingest.config.durations import format_duration
from workers.alerts.alerts import Alert, AlertKind, escape_name
from workers.alerts.rules import Finding, RuleResult
from workers.ledger import alert_queries
from workers.ledger.alert_queries import MAX_COUNTED, FailingRuns, LatePushes
from workers.ledger.transaction_monitor import OldTransaction, old_transactions

PASSED_AFTER = timedelta(minutes=1)
"""How long a condition has to be absent before its alert is resolved: the next retry must not raise it again."""

MANY_RUNS = 3
FAILING_FOR = timedelta(seconds=30)
"""So many failing runs of one handler, of which the first was stored so long ago, are an alert."""
FEW_FAILING_FOR = timedelta(minutes=10)
"""The same for fewer runs."""

MANY_DRIVERS = 3
LATE_AFTER = timedelta(seconds=10)
"""Failed pushes to so many drivers that wait for so long are an alert: an outage."""
FEW_LATE_AFTER = timedelta(minutes=1)
"""The same for fewer drivers, and for pushes that were not tried at all."""

DEAD_FOR = timedelta(days=1)
"""How long after it was made a push that was given up is an alert, unless it is sent again."""

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition that holds now, and the alert for it."""

    alert: Alert
    since: datetime | None = None
    """When its latest cause arose; None: when it was first seen."""


Find = Callable[[Connection, datetime], Sequence[Condition] | None]
"""Returns the conditions of a kind that hold now; None if that is unknown."""


@dataclass
class ConditionRule:
    """Raises the alerts of one kind while their conditions hold, and resolves them afterwards."""

    kind: AlertKind
    find: Find
    clock: Clock = time.monotonic
    #: When each condition was first seen by this process, and when it was seen last.
    _first: dict[str, datetime] = field(default_factory=dict)
    _last: dict[str, float] = field(default_factory=dict)

    def __call__(self, ledger: Connection, at: datetime) -> RuleResult:
        """Compare the conditions that hold now with the open alerts."""
        current = self.find(ledger, at)
        if current is None:
            return RuleResult()
        now = self.clock()
        already_alerted = alert_queries.open_subjects(ledger, self.kind)
        subjects = {each.alert.subject for each in current}
        for subject in already_alerted | subjects:
            self._first.setdefault(subject, at)
            if subject in subjects or subject not in self._last:
                self._last[subject] = now
        passed = {
            subject
            for subject, last in self._last.items()
            if subject not in subjects and now - last >= PASSED_AFTER.total_seconds()
        }
        # A person who has resolved the alert of a condition that still holds is not told of it again.
        found = [
            Finding(each.alert, each.since or self._first[each.alert.subject])
            for each in current
            if each.alert.subject not in already_alerted
        ]
        for subject in passed:
            del self._first[subject], self._last[subject]
        gone = passed & already_alerted
        return RuleResult(found, {self.kind: gone} if gone else {})


def failing_handlers(ledger: Connection, at: datetime) -> Sequence[Condition]:
    """Find handlers whose runs fail and are retried: several for half a minute, or any for ten."""

    def is_alert(runs: FailingRuns) -> bool:
        return at - runs.since >= (FAILING_FOR if runs.count >= MANY_RUNS else FEW_FAILING_FOR)

    return [
        Condition(
            Alert(
                AlertKind.HANDLER_FAILING,
                each.handler,
                f"The handler {escape_name(each.handler)} fails: {_count(each.count, 'run')} will be tried again, the"
                f" last error is {escape_name(each.error)}. Correct it before they are dead; the log has the"
                " traceback at `run.failed`.",
                delivery_id=each.delivery_id,
            )
        )
        for each in alert_queries.failing_runs(ledger)
        if is_alert(each)
    ]


def late_pushes(ledger: Connection, at: datetime) -> Sequence[Condition]:
    """Find channels on which pushes wait that should have been sent."""

    def is_alert(late: LatePushes) -> bool:
        is_outage = late.failed_drivers >= MANY_DRIVERS and at - late.failed_since >= LATE_AFTER
        return is_outage or at - late.since >= FEW_LATE_AFTER

    return [
        Condition(
            Alert(
                AlertKind.PUSHES_LATE,
                each.channel,
                f"{_count(each.count, 'push')} on {escape_name(each.channel)} should have been sent, the first"
                f" {rounded(at - each.since)} ago. The last error: {escape_name(each.error or 'none, not tried')}."
                " Check the provider and its key: pushes are tried again until their time is over.",
            )
        )
        for each in alert_queries.late_pushes(ledger, at)
        if is_alert(each)
    ]


def dead_pushes(ledger: Connection, at: datetime) -> Sequence[Condition]:
    """Find channels on which pushes were given up."""
    return [
        Condition(
            Alert(
                AlertKind.PUSHES_DEAD,
                each.subject,
                f"{_count(each.count, 'push')} on {escape_name(each.subject)} will not be sent:"
                " `webhooks pushes --state dead` lists them and why, `webhooks pushes retry` sends them again.",
                delivery_id=each.last_delivery,
            ),
            each.last_at,
        )
        for each in alert_queries.dead_pushes(ledger, at - DEAD_FOR)
    ]


def open_transactions(ledger: Connection, _at: datetime) -> Sequence[Condition]:
    """Find transactions of others that have been open for so long that the ledger grows because of them."""
    return [
        Condition(Alert(AlertKind.OLD_TRANSACTION, str(each.pid or "wal"), _transaction_text(each)))
        for each in old_transactions(ledger)
    ]


def _transaction_text(old: OldTransaction) -> str:
    if old.pid is None:
        return (
            f"The log of the ledger, the file ending in -wal, has {old.wal_bytes / 1_048_576:.0f} MB and grows: some"
            " program holds a read transaction open, a backup or a shell for instance. `fuser -v` on that file names"
            " it; end it, and the log is emptied with the next writes."
        )
    return (
        f"A transaction has been open in PostgreSQL for {rounded(old.age)}: process {old.pid},"
        f" {escape_name(old.program or 'unnamed')}, {escape_name(old.state)}. Until it ends, nothing that is deleted"
        f" gives disk back, and tables grow. If it is no backup, end it: SELECT pg_terminate_backend({old.pid})."
    )


LEDGER_RULES: Mapping[AlertKind, Find] = {
    AlertKind.HANDLER_FAILING: failing_handlers,
    AlertKind.PUSHES_LATE: late_pushes,
    AlertKind.PUSHES_DEAD: dead_pushes,
    AlertKind.OLD_TRANSACTION: open_transactions,
}
"""The rules that need the ledger only."""


def rounded(span: timedelta) -> str:
    """Format a span in whole seconds."""
    return format_duration(timedelta(seconds=round(span.total_seconds())))


def _count(count: int, noun: str) -> str:
    if count == 1:
        return f"1 {noun}"
    plural = f"{noun}es" if noun.endswith("sh") else f"{noun}s"
    return f"{count}{' or more' * (count >= MAX_COUNTED)} {plural}"
