"""What the registry of processes and Redis show at the moment that needs a person, for the condition rules."""

import time
from collections import Counter
from collections.abc import Callable, Sequence
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
from workers.alerts.condition_rules import Clock, Condition, ConditionRule, Find, rounded
from workers.ledger import run_schedule

MANY_REFUSED = 30
ROLLOUT_S = 60.0
"""For so many seconds a process may have other handlers than the others: a new version is being rolled out."""
STALLED_AFTER = {"urgent": timedelta(seconds=10)}
STALLED_BY_DEFAULT = timedelta(minutes=1)
REDIS_GONE_AFTER = timedelta(seconds=30)
ERASURE_LATE_AFTER = timedelta(hours=1)
"""How long after it was given an order to erase is carried out in an inbox whose deliveries get to the ledger."""


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
            _stalled(f"runs {queue}", f"{escape_name(queue)}: a run has been due for {rounded(at - since)}")
            for queue, since in run_schedule.oldest_due(ledger, at).items()
            if at - since > STALLED_AFTER.get(queue, STALLED_BY_DEFAULT)
        ]
        for each in self._processes or ():
            for queue, age in each.node.oldest.items() if each.node is not None and each.is_alive else ():
                span = timedelta(seconds=age)
                if span > STALLED_AFTER.get(queue, STALLED_BY_DEFAULT):
                    where = (
                        f"{escape_name(queue)}: a delivery on {escape_name(each.host)} has waited for {rounded(span)}"
                    )
                    found.append(_stalled(f"inbox {each.id} {queue}", where))
            erasure = timedelta(seconds=each.node.oldest_erasure or 0.0) if each.node and each.is_alive else timedelta()
            if erasure > ERASURE_LATE_AFTER:
                found.append(_erasure_late(each, erasure))
        if self._unavailable_since is not None:
            span = timedelta(seconds=self._clock() - self._unavailable_since)
            if span >= REDIS_GONE_AFTER:
                sentence = f"Redis has not answered for {rounded(span)}: events are kept, and nothing is handled."
                found.append(
                    Condition(Alert(AlertKind.STALLED, "redis", f"{sentence} Start it, or correct REDIS_URL."))
                )
        return found


def _erasure_late(node: ProcessRecord, age: timedelta) -> Condition:
    sentence = (
        f"What was erased {age // timedelta(hours=1)} h ago may still be in the inbox of {escape_name(node.host)}: a"
        " delivery that names it is not in the ledger yet, or the file cannot be written. `webhooks check --deep` there"
        " says what waits, and the log of `serve` what fails. The order is forgotten after 30 days."
    )
    return Condition(Alert(AlertKind.STALLED, f"erasure {node.id}", sentence))


def _stalled(subject: str, what: str) -> Condition:
    advice = "Are enough workers running? `webhooks check --deep` says what waits for what."
    return Condition(Alert(AlertKind.STALLED, subject, f"Work is not keeping up on the queue {what}. {advice}"))
