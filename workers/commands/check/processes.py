"""Checks what runs at this moment: which processes are gone, and what fails, waits too long or was given up."""

from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta

from redis.exceptions import RedisError
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from ingest.config.settings import Settings
from ingest.errors import QueueUnavailable, SettingsError
from ingest.inbox.schema import FILE_NAME
from ingest.queue.process_monitor import ALL, find_absences
from ingest.queue.process_registry import ProcessRecord, ProcessRegistry, ProcessType
from workers.alerts.alerts import find_alerts
from workers.alerts.condition_rules import LEDGER_RULES
from workers.alerts.process_conditions import ProcessObserver
from workers.commands.check.basics import inbox, ledger, queues
from workers.commands.check.check_result import CheckResult, fail, ok, warn
from workers.commands.check.probe import ProbedProcess, probe
from workers.commands.check.relay_check import check_relays
from workers.commands.errors import Failure
from workers.commands.stores import open_ledger, read_only_ledger
from workers.installation import open_queues
from workers.lists.formatting import human_duration

SUBJECTS = {ProcessType.SERVE: "serve", ProcessType.WORK: "workers", ProcessType.CLOCK: "clock"}


def check_processes(settings: Settings) -> Iterator[CheckResult]:
    """Yield which processes run, publish or are gone, and what is wrong according to the rules of the alerts.

    What Redis or the database do not answer is left out: other checks report them.
    """
    processes: Sequence[ProcessRecord] | None = None
    observer: ProcessObserver | None = None
    is_redis_away = False
    try:
        with open_ledger(settings) as engine, open_queues(settings, engine) as connection:
            processes = ProcessRegistry(connection).processes()
            observer = ProcessObserver(connection)
            observer.observe()
    except (QueueUnavailable, RedisError):
        is_redis_away = True
    except (SettingsError, SQLAlchemyError, Failure):
        pass
    if processes is not None:
        yield from _processes(processes)
        yield from _inboxes(settings, processes)
    yield from check_relays(settings, processes, is_redis_away=is_redis_away)
    try:
        with read_only_ledger(settings) as ledger:
            yield from _conditions(ledger, observer)
            yield from _open_alerts(ledger)
    except (DBAPIError, Failure):
        return


def check_now(settings: Settings) -> Iterator[CheckResult]:
    """Yield what the first page of the dashboard shows: the stores, what runs or reports itself, and the work."""
    for check in (inbox, queues, ledger):
        yield from check(settings)
    yield probe(settings, ProbedProcess.SERVE)
    if settings.authorize_credentials is not None:
        yield probe(settings, ProbedProcess.AUTHORIZE)
    yield from check_processes(settings)


def _processes(processes: Sequence[ProcessRecord]) -> Iterator[CheckResult]:
    absences = list(find_absences(processes))
    for process, subject in SUBJECTS.items():
        alive = [each for each in processes if each.process is process and each.is_alive]
        if alive:
            hosts = ", ".join(f"{count} on {host}" for host, count in Counter(each.host for each in alive).items())
            yield ok(subject, f"Running: {hosts}. The last report came {_ago(alive)} ago.")
        for each in absences:
            if each.process is process:
                # One of several that died is made up for by the others, as far as they can.
                is_failure = not alive or each.subject == ALL or each.subject.startswith("queue ")
                yield (fail if is_failure else warn)(subject, each.sentence)


def _inboxes(settings: Settings, processes: Sequence[ProcessRecord]) -> Iterator[CheckResult]:
    others = others_with_inbox(settings, processes)
    if others:
        yield warn("inbox", f"There is none in {settings.data_dir}: those of {', '.join(others)} are not checked here.")


def others_with_inbox(settings: Settings, processes: Sequence[ProcessRecord]) -> list[str]:
    """Return the hosts whose `serve` has an inbox, unless one is in our data folder, too."""
    if (settings.data_dir / FILE_NAME).exists():
        return []
    return sorted({each.host for each in processes if each.process is ProcessType.SERVE and each.is_alive})


def _conditions(ledger: Connection, observer: ProcessObserver | None) -> Iterator[CheckResult]:
    at = datetime.now(UTC)
    rules = dict(LEDGER_RULES)
    if observer is not None:
        rules |= {rule.kind: rule.find for rule in observer.rules()}
    found = [(kind, each.alert) for kind, find in rules.items() for each in find(ledger, at) or ()]
    for kind, alert in found:
        yield fail(kind, alert.sentence)
    if not found:
        yield ok("work", "No handler, push or signature fails now, and nothing waits for too long.")


def _open_alerts(ledger: Connection) -> Iterator[CheckResult]:
    kinds = Counter(row.kind.value for row in find_alerts(ledger, only_open=True, limit=1000))
    if kinds:
        names = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
        yield warn("alerts", f"Open: {names}. `webhooks alerts --open` says what to do.")


def _ago(processes: Sequence[ProcessRecord]) -> str:
    return human_duration(timedelta(seconds=max(0.0, min(each.age for each in processes))))
