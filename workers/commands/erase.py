"""`webhooks erase`: erase a driver or a session everywhere, and print a certificate."""

import time
from collections.abc import Mapping
from dataclasses import asdict
from datetime import timedelta

import click
from redis.exceptions import RedisError
from sqlalchemy import Engine

from ingest.config.settings import Settings
from ingest.errors import QueueUnavailable, SettingsError
from ingest.queue.erasure_orders import erasure_reports, publish_orders
from ingest.queue.process_registry import ProcessRegistry, ProcessType
from workers.commands import options
from workers.commands.audit import audit_entry, record_act
from workers.commands.errors import Failure, error_text
from workers.commands.output import json_line, key_values
from workers.commands.stores import open_ledger
from workers.dev.env_file import settings_with_dev_defaults
from workers.installation import open_queues
from workers.ledger.audit_log import AuditAct
from workers.ledger.database.transaction import read_once, run_in_transaction
from workers.lists.formatting import Cell, Json, iso
from workers.privacy.erasure import Erasure, Traces, erasure_orders, find_traces, remember, salt_of
from workers.privacy.erasure import erase as erase_from_ledger
from workers.privacy.late_erasure import ORDERS_FOR, LateErasureTask
from workers.privacy.redis_erasure import erase_from_redis, rewrite_files
from workers.privacy.vacuum import vacuum_ledger

NODES_TIMEOUT = timedelta(seconds=20)
"""How long the command waits for the nodes that are alive."""
NODES_POLL = 0.25


@click.command()
@click.option("--user", metavar="ID", help="The driver, in any case.")
@click.option("--session", "session_id", metavar="ID", help="Only this session.")
@click.option("--dry-run", is_flag=True, help="Count what would be erased, and erase nothing.")
@click.option("--reason", metavar="TEXT", help="Why, for the audit log: a ticket, and no name.")
@click.option("--vacuum", is_flag=True, help="Then rewrite the database: everything waits for that, for minutes.")
@options.as_json
def erase(  # noqa: PLR0913  the options are the interface
    *, user: str | None, session_id: str | None, dry_run: bool, reason: str | None, vacuum: bool, as_json: bool
) -> None:
    """Erase all that is known of a driver or of a session, and print a certificate.

    Erased are the ledger, Redis, and the inboxes of all nodes; a node that is away does it when it is back. What comes
    late of an erased session is erased within seconds. Charging records stay under a random name, as law asks for them.
    Deliveries stay without their content, so that their duplicates are recognized.
    """
    if (user is None) == (session_id is None):
        raise click.UsageError("Name a driver with --user, or a session with --session.")
    if not (user or session_id or "").strip():
        raise click.UsageError("The id is empty.")
    if dry_run and vacuum:
        raise click.UsageError("Choose --dry-run or --vacuum.")
    settings = settings_with_dev_defaults()
    subject = "driver" if session_id is None else "session"
    with open_ledger(settings) as engine:
        traces = find_traces(engine, user=user, session_ids=[session_id] if session_id else [])
        if dry_run:
            _print({"what": subject, "dry_run": True, **_found(traces)}, as_json=as_json)
            return
        erasure, salt = Erasure(), salt_of(engine)
        run_in_transaction(engine, lambda ledger: remember(ledger, erasure, salt, traces))
        erased = erase_from_ledger(engine, erasure, traces)
        # Before what may take long or fail: it is done, and cannot be undone.
        text = f"erasure {erasure.id}" + (f": {reason}" if reason else "")
        entry = audit_entry(AuditAct.ERASED, text, sum(erased.values()))
        run_in_transaction(engine, lambda ledger: record_act(ledger, entry))
        in_redis, nodes = _erase_elsewhere(settings, engine, salt, erasure, traces)
        if vacuum:
            vacuum_ledger(engine)
        certificate: dict[str, Json] = {
            "erasure": erasure.id,
            "at": iso(erasure.at),
            "what": subject,
            "reason": reason,
            "sessions": len(traces.sessions),
            "ledger": dict(erased),
            "redis": in_redis,
            "inboxes": nodes,
            "vacuumed": vacuum,
        }
    _print(certificate, as_json=as_json)
    if "failed" in in_redis and settings.redis_url is not None:
        raise Failure(
            "Only the ledger is erased. The clock tells the nodes once Redis is back; descriptions of jobs stay."
        )


def _found(traces: Traces) -> dict[str, Json]:
    return {"sessions": len(traces.sessions), "deliveries": len(traces.deliveries), "cdrs": len(traces.records)}


def _erase_elsewhere(
    settings: Settings, engine: Engine, salt: str, erasure: Erasure, traces: Traces
) -> tuple[dict[str, Json], dict[str, Json]]:
    """Erase in Redis, and wait for the inboxes of the nodes that are alive."""
    try:
        with open_queues(settings, engine) as connection:
            in_redis: dict[str, Json] = dict(erase_from_redis(connection, traces))
            in_redis["file_rewritten"] = rewrite_files(connection)
            orders = read_once(engine, lambda ledger: erasure_orders(ledger, salt, erasure.at - ORDERS_FOR))
            publish_orders(connection, orders)
            alive = {each.id for each in ProcessRegistry(connection).processes() if _is_serving(each)}
            until, reports = time.monotonic() + NODES_TIMEOUT.total_seconds(), erasure_reports(connection, erasure.id)
            while alive - reports.keys() and time.monotonic() < until:
                time.sleep(NODES_POLL)
                reports = erasure_reports(connection, erasure.id)
            LateErasureTask(engine, connection).run()  # what was on its way when it began
    except (RedisError, QueueUnavailable, SettingsError) as error:
        return {"failed": error_text(error)}, {}
    done: dict[str, Json] = {inbox: dict(asdict(report)) for inbox, report in reports.items()}
    return in_redis, {**dict.fromkeys(sorted(alive), "not yet"), **done}


def _is_serving(process: object) -> bool:
    return getattr(process, "process", None) is ProcessType.SERVE and bool(getattr(process, "is_alive", False))


def _print(certificate: Mapping[str, Json], *, as_json: bool) -> None:
    if as_json:
        json_line(certificate)
        return
    pairs: list[tuple[str, Cell]] = []
    for name, value in certificate.items():
        if isinstance(value, dict):
            pairs += [(f"{name}: {each}", str(found)) for each, found in value.items()]
        elif value is not None:
            pairs.append((name, str(value)))
    key_values(pairs)
