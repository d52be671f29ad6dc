"""`webhooks check --live PROCESS`: whether a process of one type lives on this host.

A probe runs every few seconds beside each process: it imports no more than its answer takes.
"""

import socket
from datetime import timedelta
from enum import StrEnum
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException

from ingest.config.settings import Settings
from ingest.errors import QueueUnavailable, SettingsError
from workers.commands.check.check_result import CheckResult, fail, ok, warn
from workers.lists.formatting import human_duration
from workers.net import reachable

TIMEOUT_S = 3.0
NOT_KNOWN = "So it is not known whether it runs; to restart it would not help."


class ProbedProcess(StrEnum):
    """The types of processes that can be probed."""

    SERVE = "serve"
    AUTHORIZE = "authorize"
    WORK = "work"
    CLOCK = "clock"
    DASHBOARD = "dashboard"
    DEVICES = "devices"


def probe(settings: Settings, process: ProbedProcess) -> CheckResult:
    """Return whether a process of this type lives on this host: by its port, or by what it reports in Redis.

    Where Redis or the database cannot be asked, that is a warning and no failure: the processes wait for them, and who
    restarts what fails a probe would only delay their return.
    """
    ports = {
        ProbedProcess.SERVE: settings.port,
        ProbedProcess.AUTHORIZE: settings.authorize_port,
        ProbedProcess.DASHBOARD: settings.dashboard_port,
        ProbedProcess.DEVICES: settings.devices_port,
    }
    if process in ports:
        return _ask_port(process, reachable(settings.host), ports[process])
    return _find_report(settings, process)


def _ask_port(process: ProbedProcess, host: str, port: int) -> CheckResult:
    url = f"http://{host}:{port}/healthz"
    connection = HTTPConnection(host.strip("[]"), port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", "/healthz")
        status = connection.getresponse().status
    except (OSError, HTTPException) as error:
        return fail(process, f"{url} does not answer ({type(error).__name__}): start `webhooks {process}`.")
    finally:
        connection.close()
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return fail(process, f"{url} answered {status}.")
    return ok(process, f"{url} answered {status}.")


def _find_report(settings: Settings, process: ProbedProcess) -> CheckResult:
    # They bring redis-py, which the probe of a port does without. SQLAlchemy would be half of what it takes.
    from ingest.queue.process_registry import ProcessRegistry  # noqa: PLC0415
    from ingest.queue.redis_client import connect_queues  # noqa: PLC0415
    from ingest.relay.ledger_identity import ask_ledger_id  # noqa: PLC0415

    try:
        redis_url = settings.require_redis()
        namespace = settings.queue_namespace or ask_ledger_id(settings)
        if namespace is None:
            return warn(process, f"The ledger at DATABASE_URL cannot be asked for its id. {NOT_KNOWN}")
        with connect_queues(redis_url, namespace, timeout=TIMEOUT_S) as connection:
            found = ProcessRegistry(connection).processes()
    except SettingsError as error:
        return fail(process, str(error))
    except QueueUnavailable as error:
        return warn(process, f"Redis does not answer: {error}. {NOT_KNOWN}")
    host = socket.gethostname()
    ages = [each.age for each in found if each.process.value == process.value and each.host == host and each.is_alive]
    if not ages:
        return fail(process, f"None on {host} has reported itself lately: start `webhooks {process}`.")
    return ok(process, f"It reported itself {human_duration(timedelta(seconds=max(0.0, min(ages))))} ago.")
