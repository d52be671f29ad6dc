"""Checks what runs at this moment: which processes are gone, and what fails, waits too long or was given up."""

import socket
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from enum import StrEnum

import httpx
from redis.exceptions import RedisError
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from ingest.config.settings import Settings
from ingest.errors import QueueUnavailable, SettingsError
from ingest.inbox.schema import FILE_NAME
from ingest.queue.process_monitor import ALL, find_absences
from ingest.queue.process_registry import ProcessRecord, ProcessRegistry, ProcessType
from workers.alerts.alerts import find_alerts
from workers.alerts.condition_rules import LEDGER_RULES, ProcessObserver
from workers.commands.check.basics import CheckResult, fail, inbox, ledger, ok, queues, warn
from workers.commands.errors import Failure, error_text
from workers.commands.stores import open_ledger, read_only_ledger
from workers.installation import open_queues
from workers.lists.formatting import human_duration
from workers.net import reachable

SUBJECTS = {ProcessType.SERVE: "serve", ProcessType.WORK: "workers", ProcessType.CLOCK: "clock"}
PROBE_TIMEOUT = timedelta(seconds=3)


class ProbedProcess(StrEnum):
    """The types of processes that can be probed."""

    SERVE = "serve"
    AUTHORIZE = "authorize"
    WORK = "work"
    CLOCK = "clock"
    DASHBOARD = "dashboard"
    DEVICES = "devices"


def check_processes(settings: Settings) -> Iterator[CheckResult]:
    """Yield which processes run and which are gone, and what is wrong according to the rules of the alerts.

    What Redis or the database do not answer is left out: other checks report them.
    """
    processes: Sequence[ProcessRecord] | None = None
    observer: ProcessObserver | None = None
    try:
        with open_ledger(settings) as engine, open_queues(settings, engine) as connection:
            processes = ProcessRegistry(connection).processes()
            observer = ProcessObserver(connection)
            observer.observe()
    except (QueueUnavailable, RedisError, SettingsError, SQLAlchemyError, Failure):
        pass
    if processes is not None:
        yield from _processes(processes)
        yield from _inboxes(settings, processes)
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


def probe(settings: Settings, process: ProbedProcess) -> CheckResult:
    """Return whether a process of this type lives on this host: by its port, or by what it reports in Redis."""
    ports = {
        ProbedProcess.SERVE: settings.port,
        ProbedProcess.AUTHORIZE: settings.authorize_port,
        ProbedProcess.DASHBOARD: settings.dashboard_port,
        ProbedProcess.DEVICES: settings.devices_port,
    }
    if process in ports:
        return _probe_port(process, f"http://{reachable(settings.host)}:{ports[process]}/healthz")
    try:
        timeout = PROBE_TIMEOUT.total_seconds()
        with open_ledger(settings) as engine, open_queues(settings, engine, timeout=timeout) as connection:
            found = ProcessRegistry(connection).processes()
    except (QueueUnavailable, RedisError, SettingsError, SQLAlchemyError, Failure) as error:
        return fail(process, f"{error_text(error)} So it is not known whether it runs.")
    host = socket.gethostname()
    ours = [each for each in found if each.process.value == process.value and each.host == host and each.is_alive]
    if not ours:
        return fail(process, f"None on {host} has reported itself lately: start `webhooks {process}`.")
    return ok(process, f"It reported itself {_ago(ours)} ago.")


def _probe_port(process: ProbedProcess, url: str) -> CheckResult:
    try:
        # No proxy: it is this machine.
        with httpx.Client(trust_env=False, timeout=PROBE_TIMEOUT.total_seconds()) as client:
            status = client.get(url).status_code
    except httpx.HTTPError as error:
        return fail(process, f"{url} does not answer ({type(error).__name__}): start `webhooks {process}`.")
    if status >= httpx.codes.INTERNAL_SERVER_ERROR:
        return fail(process, f"{url} answered {status}.")
    return ok(process, f"{url} answered {status}.")


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
