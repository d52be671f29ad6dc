"""The alert rules about what is wrong at the moment: each alert is resolved when its condition has passed."""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import redis
from sqlalchemy import Connection

from ingest.config.durations import format_duration
from ingest.errors import QueueUnavailable
from ingest.inbox.quarantined_request import WRONG_PATH
from ingest.queue.process_monitor import Absence, ProcessMonitor
from ingest.queue.process_registry import NodeReport, ProcessRecord, ProcessRegistry, ProcessType
from ingest.queue.redis_memory import RedisMemory, eviction_text, full_text, read_memory
from workers.alerts.alerts import Alert, AlertKind, escape_name
from workers.alerts.rules import Finding, RuleResult
from workers.ledger import alert_queries, run_schedule
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

MANY_REFUSED = 30
ROLLOUT_S = 60.0
"""For so many seconds a process may have other handlers than the others: a new version is being rolled out."""
STALLED_AFTER = {"urgent": timedelta(seconds=10)}
STALLED_BY_DEFAULT = timedelta(minutes=1)
REDIS_GONE_AFTER = timedelta(seconds=30)

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


class ProcessObserver:
    """What the registry of processes shows, read once for all rules that need it."""

    def __init__(self, connection: redis.Redis, *, clock: Clock = time.monotonic) -> None:
        self._connection = connection
        self._registry = ProcessRegistry(connection)
        self._monitor = ProcessMonitor(clock=clock)
        self._clock = clock
        self._processes: Sequence[ProcessRecord] | None = None
        self._absences: Sequence[Absence] = ()
        self._memory: RedisMemory | None = None
        self._unavailable_since: float | None = None

    def observe(self) -> None:
        """Read the registry. Raises nothing: what the rules return without Redis is unknown."""
        try:
            self._processes = self._registry.processes()
            self._memory = read_memory(self._connection)
        except (QueueUnavailable, redis.RedisError):
            if self._unavailable_since is None:
                self._unavailable_since = self._clock()
            self._monitor.reset()
            self._processes, self._absences, self._memory = None, (), None
        else:
            self._unavailable_since = None
            self._absences = self._monitor.update(self._processes)

    def rules(self) -> list[ConditionRule]:
        """Return the rules."""
        found: dict[AlertKind, Find] = {
            AlertKind.WORKER_GONE: self._gone(AlertKind.WORKER_GONE, ProcessType.WORK),
            AlertKind.CLOCK_GONE: self._gone(AlertKind.CLOCK_GONE, ProcessType.CLOCK),
            AlertKind.SERVE_GONE: self._gone(AlertKind.SERVE_GONE, ProcessType.SERVE),
            AlertKind.HANDLERS_OUTDATED: self._outdated,
            AlertKind.SIGNATURES_FAILING: self._signatures,
            AlertKind.WRONG_PATH: self._wrong_path,
            AlertKind.STALLED: self._stalled,
            AlertKind.REDIS_FULL: self._full,
            AlertKind.REDIS_EVICTS: self._evicts,
        }
        return [ConditionRule(kind, find, self._clock) for kind, find in found.items()]

    def _gone(self, kind: AlertKind, process: ProcessType) -> Find:
        def find(_ledger: Connection, _at: datetime) -> Sequence[Condition] | None:
            if self._processes is None:
                return None
            return [
                Condition(Alert(kind, each.subject, each.sentence))
                for each in self._absences
                if each.process is process
            ]

        return find

    def _outdated(self, _ledger: Connection, _at: datetime) -> Sequence[Condition] | None:
        if self._processes is None:
            return None
        # While a new version is rolled out some are older than others.
        settled = [each for each in self._processes if each.is_alive and each.beat_at - each.started_at > ROLLOUT_S]
        configured = {name for each in settled if each.process is ProcessType.CLOCK for name in each.handlers}
        found = []
        for each in self._processes:
            missing = configured.difference(each.handlers) if each in settled else set()
            if each.process is not ProcessType.WORK or not each.is_alive or not (each.outdated or missing):
                continue
            worker = f"The worker {each.pid} on {escape_name(each.host)}"
            sentence = (
                f"{worker} runs older plugins than there are: {escape_name(', '.join(each.outdated))} changed since it"
                " started. Start it again."
                if each.outdated
                else f"{worker} has not loaded {escape_name(', '.join(sorted(missing)))}, which the clock has."
                " Start it again, or the clock if that is older."
            )
            found.append(Condition(Alert(AlertKind.HANDLERS_OUTDATED, each.id, sentence)))
        return found

    def _signatures(self, _ledger: Connection, _at: datetime) -> Sequence[Condition] | None:
        def alert(node: ProcessRecord, reasons: Counter[str]) -> Alert:
            (reason, _), *_ = reasons.most_common(1)
            sentence = (
                f"{reasons.total()} requests were refused within {format_duration(NodeReport.SPAN)}, most of them:"
                f" {escape_name(reason)} Probably a signing key is wrong, or a stranger tries. `webhooks quarantine` on"
                f" {escape_name(node.host)} lists them, `webhooks keys try` finds the key, and `webhooks reverify` lets"
                " them in afterwards: do it soon, the quarantine is bounded."
            )
            return Alert(AlertKind.SIGNATURES_FAILING, node.id, sentence)

        return self._of_nodes(alert, lambda reason: reason != WRONG_PATH, MANY_REFUSED)

    def _wrong_path(self, _ledger: Connection, _at: datetime) -> Sequence[Condition] | None:
        def alert(node: ProcessRecord, reasons: Counter[str]) -> Alert:
            sentence = (
                f"{reasons.total()} signed requests came to a path that nothing answers: correct the URL at"
                f" Plugsurfing. `webhooks quarantine` on {escape_name(node.host)} lists them, and"
                " `webhooks reverify --as events` lets them in."
            )
            return Alert(AlertKind.WRONG_PATH, node.id, sentence)

        return self._of_nodes(alert, lambda reason: reason == WRONG_PATH, 1)

    def _of_nodes(
        self, alert: Callable[[ProcessRecord, Counter[str]], Alert], matches: Callable[[str], bool], least: int
    ) -> Sequence[Condition] | None:
        if self._processes is None:
            return None
        found = []
        for each in self._processes:
            if each.node is not None and each.is_alive:
                reasons = Counter({name: count for name, count in each.node.quarantined.items() if matches(name)})
                if reasons.total() >= least:
                    found.append(Condition(alert(each, reasons)))
        return found

    def _full(self, _ledger: Connection, _at: datetime) -> Sequence[Condition] | None:
        if self._memory is None:
            return None
        alert = Alert(AlertKind.REDIS_FULL, "redis", full_text(self._memory))
        return [Condition(alert)] if self._memory.is_nearly_full else []

    def _evicts(self, _ledger: Connection, _at: datetime) -> Sequence[Condition] | None:
        if self._memory is None:
            return None
        alert = Alert(AlertKind.REDIS_EVICTS, "redis", eviction_text(self._memory))
        # Without a limit nothing is evicted, until somebody sets one: `check` warns of that.
        return [Condition(alert)] if self._memory.evicts and self._memory.limit else []

    def _stalled(self, ledger: Connection, at: datetime) -> Sequence[Condition]:
        found = [
            _stalled(f"runs {queue}", f"{escape_name(queue)}: a run has been due for {_seconds(at - since)}")
            for queue, since in run_schedule.oldest_due(ledger, at).items()
            if at - since > STALLED_AFTER.get(queue, STALLED_BY_DEFAULT)
        ]
        for each in self._processes or ():
            for queue, age in each.node.oldest.items() if each.node is not None and each.is_alive else ():
                span = timedelta(seconds=age)
                if span > STALLED_AFTER.get(queue, STALLED_BY_DEFAULT):
                    where = (
                        f"{escape_name(queue)}: a delivery on {escape_name(each.host)} has waited for {_seconds(span)}"
                    )
                    found.append(_stalled(f"inbox {each.id} {queue}", where))
        if self._unavailable_since is not None:
            span = timedelta(seconds=self._clock() - self._unavailable_since)
            if span >= REDIS_GONE_AFTER:
                sentence = f"Redis has not answered for {_seconds(span)}: events are kept, and nothing is handled."
                found.append(
                    Condition(Alert(AlertKind.STALLED, "redis", f"{sentence} Start it, or correct REDIS_URL."))
                )
        return found


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
                f" {_seconds(at - each.since)} ago. The last error: {escape_name(each.error or 'none, not tried')}."
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
        f"A transaction has been open in PostgreSQL for {_seconds(old.age)}: process {old.pid},"
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


def _stalled(subject: str, what: str) -> Condition:
    advice = "Are enough workers running? `webhooks check --deep` says what waits for what."
    return Condition(Alert(AlertKind.STALLED, subject, f"Work is not keeping up on the queue {what}. {advice}"))


def _seconds(span: timedelta) -> str:
    return format_duration(timedelta(seconds=round(span.total_seconds())))


def _count(count: int, noun: str) -> str:
    if count == 1:
        return f"1 {noun}"
    plural = f"{noun}es" if noun.endswith("sh") else f"{noun}s"
    return f"{count}{' or more' * (count >= MAX_COUNTED)} {plural}"
