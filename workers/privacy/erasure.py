"""Erasure in the ledger: what is known of a driver or of sessions is deleted, deliveries become tombstones.

| table | what happens |
|---|---|
| deliveries | body, headers, session and reason are deleted; id, times and outcomes stay: duplicates are known |
| runs | errors and tracebacks are deleted; open ones end as moot |
| audit | a subject that names them becomes `erased` |
| cdrs | pseudonymised: law keeps them, and totals stay exact |
| those of plugins | the rows are deleted, by the columns that the plugin says |
| all others | the rows are deleted |
"""

import json
import secrets
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any

from sqlalchemy import ColumnElement, Connection, Engine, Table, Update, delete, func, or_, select, update

from handlers.kit.cdr_table import cdrs
from handlers.kit.plugin_tables import PluginTable
from ingest.queue.erasure_orders import ErasureOrder, erasure_digest
from workers.ledger import charging_key_usage
from workers.ledger.charging_key_usage import asked_in
from workers.ledger.database.conditions import in_list, same_person
from workers.ledger.database.engine import chunks, insert_into
from workers.ledger.database.transaction import run_in_transaction
from workers.ledger.delivery_states import refresh_states
from workers.ledger.identity import ledger_id
from workers.ledger.runs import locked_update
from workers.ledger.session_erasure import ERASED
from workers.ledger.states import OPEN_OUTCOMES, BodyDeletion, Outcome
from workers.ledger.tables.alert_tables import alerts
from workers.ledger.tables.audit_tables import audit
from workers.ledger.tables.authorization_tables import authorizations, balances, session_keys
from workers.ledger.tables.core_tables import deliveries, devices, pushes, runs, sessions
from workers.ledger.tables.erasure_tables import ErasedKind, erasures
from workers.ledger.tables.key_tables import charging_key_uses
from workers.ledger.tables.reconciliation_tables import downtimes, session_polls
from workers.privacy.erasure_targets import ErasureTargets

SLICE = 200


@dataclass(frozen=True, slots=True)
class Erasure:
    """One erasure: its id, its time, and the random names that stand in charging records from then on."""

    id: str = field(default_factory=lambda: secrets.token_hex(8))
    at: datetime = field(default_factory=lambda: datetime.now(UTC))
    pseudonyms: dict[str, str] = field(default_factory=dict)

    def pseudonym(self, name: str | None) -> str | None:
        """Return what replaces a name, the same each time."""
        return None if name is None else self.pseudonyms.setdefault(name.lower(), f"{ERASED}-{secrets.token_hex(6)}")


def order_of(erasure: Erasure, salt: str, targets: ErasureTargets) -> ErasureOrder:
    """Return the order by which others carry out an erasure, and by which late events are recognized."""
    users = frozenset(erasure_digest(salt, each) for each in targets.users)
    sessions = frozenset(erasure_digest(salt, each) for each in targets.sessions)
    return ErasureOrder(erasure.id, erasure.at.timestamp(), salt, sessions | users, users)


def remember(ledger: Connection, order: ErasureOrder) -> None:
    """Insert the digests of an order."""
    at = datetime.fromtimestamp(order.at, UTC)
    rows = [
        {
            "digest": each,
            "erasure_id": order.id,
            "kind": ErasedKind.USER if each in order.users else ErasedKind.SESSION,
            "at": at,
        }
        for each in sorted(order.digests)
    ]
    if rows:
        # A driver who is erased a second time may have come back: then it is the time of the second that counts.
        new = insert_into(ledger, erasures)
        later = {"erasure_id": new.excluded.erasure_id, "at": new.excluded.at}
        ledger.execute(new.on_conflict_do_update(index_elements=["digest"], set_=later), rows)


def erasure_orders(ledger: Connection, salt: str, since: datetime) -> list[ErasureOrder]:
    """Return the orders for the nodes, of the erasures since then."""
    by_id: dict[str, list[Any]] = {}
    for row in ledger.execute(select(erasures).where(erasures.c.at >= since)):
        by_id.setdefault(row.erasure_id, []).append(row)
    return [
        ErasureOrder(
            id_,
            rows[0].at.timestamp(),
            salt,
            frozenset(row.digest for row in rows),
            frozenset(row.digest for row in rows if row.kind is ErasedKind.USER),
        )
        for id_, rows in by_id.items()
    ]


def erase(
    engine: Engine, erasure: Erasure, targets: ErasureTargets, plugin_tables: Iterable[PluginTable] = ()
) -> Counter[str]:
    """Erase what was found, in slices, and return how many rows by table. Repeated, it does no harm.

    By what is deleted last all else is found: so an erasure that was interrupted can be repeated.
    """
    erased = Counter[str]()

    def delete_rows(rows: Iterable[tuple[Any, list[Any]]]) -> None:
        for table, conditions in rows:
            erased[table.name] += run_in_transaction(
                engine, partial(_delete_rows, table=table, condition=or_(*conditions))
            )

    delete_rows(_rows_of_plugins(targets, plugin_tables))
    delete_rows(_rows_to_delete(targets))
    for ids in chunks(sorted(targets.deliveries), SLICE):
        erased["deliveries"] += run_in_transaction(engine, partial(_erase_deliveries, ids=ids, erasure=erasure))
    erased["cdrs"] = run_in_transaction(
        engine, partial(_pseudonymise, records=sorted(targets.records), erasure=erasure)
    )
    named = update(audit).where(in_list(audit.c.id, targets.acts)).values(subject=ERASED)
    erased["audit"] = run_in_transaction(engine, partial(_row_count, statement=named))
    delete_rows(_rows_to_delete_last(targets))
    # Where a backfill has come to: without it, an open one begins anew.
    cursor = update(downtimes).where(in_list(downtimes.c.after_user, targets.users)).values(after_user=None)
    erased["gaps"] = run_in_transaction(engine, partial(_row_count, statement=cursor))
    return +erased


def salt_of(engine: Engine) -> str:
    """Return what digests of this ledger are made with."""
    return ledger_id(engine)


def _delete_rows(ledger: Connection, table: Table, condition: ColumnElement[bool]) -> int:
    if table is charging_key_uses:
        charging_key_usage.lock(ledger, condition)
    return ledger.execute(delete(table).where(condition)).rowcount


def _row_count(ledger: Connection, statement: Update) -> int:
    return ledger.execute(statement).rowcount


def _erase_deliveries(ledger: Connection, ids: Sequence[str], erasure: Erasure) -> int:
    ending = {"outcome": Outcome.MOOT, "due_at": None, "until_at": None, "waits_for": None, "finished_at": erasure.at}
    is_open = (in_list(runs.c.delivery_id, ids), runs.c.outcome.in_(sorted(OPEN_OUTCOMES)))
    with_open_runs = set(ledger.scalars(select(runs.c.delivery_id).where(*is_open)))
    ledger.execute(locked_update(*is_open).values(**ending))
    has_text = or_(runs.c.error.is_not(None), runs.c.reason.is_not(None), runs.c.traceback.is_not(None))
    blank = {"error": None, "traceback": None, "reason": ERASED}
    ledger.execute(update(runs).where(in_list(runs.c.delivery_id, ids), has_text).values(blank))
    gone: dict[str, Any] = {
        "body": b"",
        "headers": {},
        "session_id": None,
        "reason": None,
        "body_deletion": BodyDeletion.ERASURE,
    }
    these = update(deliveries).where(in_list(deliveries.c.id, ids))
    count = ledger.execute(these.values(**gone, body_deleted_at=erasure.at)).rowcount
    refresh_states(ledger, with_open_runs)
    return count


def _pseudonymise(ledger: Connection, records: Sequence[tuple[str, int]], erasure: Erasure) -> int:
    for delivery_id, position in records:
        this = (cdrs.c.delivery_id == delivery_id, cdrs.c.position == position)
        row = ledger.execute(select(cdrs).where(*this)).one_or_none()
        if row is None or (row.session_id or row.user_id or "").startswith(f"{ERASED}-"):
            continue
        kept = {name: getattr(row, name) for name in ("request_id", "amount", "currency", "energy_kwh")}
        document = {ERASED: erasure.id, **{name: str(value) for name, value in kept.items() if value is not None}}
        ledger.execute(
            update(cdrs)
            .where(*this)
            .values(
                session_id=erasure.pseudonym(row.session_id),
                user_id=erasure.pseudonym(row.user_id),
                charging_key=erasure.pseudonym(row.charging_key),
                document=json.dumps(document),
            )
        )
    return len(records)


def count_rows_of_plugins(
    ledger: Connection, targets: ErasureTargets, plugin_tables: Iterable[PluginTable]
) -> Counter[str]:
    """Count the rows that would be deleted, by table."""
    return Counter(
        {
            table.name: ledger.scalar(select(func.count()).select_from(table).where(or_(*conditions))) or 0
            for table, conditions in _rows_of_plugins(targets, plugin_tables)
        }
    )


def _rows_of_plugins(targets: ErasureTargets, plugin_tables: Iterable[PluginTable]) -> Iterator[tuple[Any, list[Any]]]:
    for each in plugin_tables:
        conditions: list[Any] = []
        if each.user is not None:
            conditions += [same_person(each.user, user) for user in sorted(targets.users)]
        if each.session is not None:
            conditions.append(in_list(each.session, targets.sessions))
        if conditions:
            yield each.table, conditions


def _rows_to_delete(targets: ErasureTargets) -> Iterator[tuple[Any, list[Any]]]:
    of_session = targets.sessions
    yield session_polls, [in_list(session_polls.c.session_id, of_session)]
    # Before the decisions, by which the keys of their sessions are found. A card that others use, too, is counted anew.
    yield charging_key_uses, [in_list(charging_key_uses.c.key, targets.keys), asked_in(of_session)]
    yield (
        authorizations,
        [in_list(authorizations.c.session_id, of_session), in_list(authorizations.c.key, targets.keys)],
    )
    yield devices, [in_list(devices.c.user_id, targets.users)]
    yield balances, [in_list(balances.c.user_id, targets.users)]
    yield alerts, [in_list(alerts.c.id, targets.alerts)]


def _rows_to_delete_last(targets: ErasureTargets) -> Iterator[tuple[Any, list[Any]]]:
    of_session = targets.sessions
    yield session_keys, [in_list(session_keys.c.session_id, of_session)]
    yield (
        pushes,
        [
            in_list(pushes.c.user_id, targets.users),
            in_list(pushes.c.session_id, of_session),
            in_list(pushes.c.delivery_id, targets.deliveries),
        ],
    )
    yield sessions, [in_list(sessions.c.session_id, of_session)]
