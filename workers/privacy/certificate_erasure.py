"""Repeats erasures by their orders, for a ledger that was restored from a backup of the time before."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from sqlalchemy import Column, Connection, Engine, select

from handlers.kit.cdr_table import cdrs
from handlers.kit.plugin_tables import PluginTable
from ingest.queue.erasure_orders import ErasureOrder, erasure_digest
from workers.ledger.database.transaction import read_once
from workers.ledger.tables.authorization_tables import balances
from workers.ledger.tables.core_tables import deliveries, devices, pushes, sessions
from workers.ledger.tables.erasure_tables import erasures
from workers.privacy.erasure_targets import ErasureTargets, find_targets

USER_COLUMNS = (sessions.c.user_id, pushes.c.user_id, cdrs.c.user_id, devices.c.user_id, balances.c.user_id)
SESSION_COLUMNS = (sessions.c.session_id, deliveries.c.session_id, pushes.c.session_id, cdrs.c.session_id)


def is_unknown(ledger: Connection, order: ErasureOrder) -> bool:
    """Return whether the ledger lacks an order, or a part of it."""
    known = ledger.execute(select(erasures.c.digest, erasures.c.at))
    latest = {row.digest: row.at.timestamp() for row in known}
    # The same driver may have been erased again: then the digest is of the later order.
    return any(latest.get(digest, 0.0) < order.at for digest in order.digests)


def find_ordered_targets(
    engine: Engine, order: ErasureOrder, plugin_tables: Sequence[PluginTable] = ()
) -> ErasureTargets:
    """Find what the ledger has of the driver and the sessions of an order, which names them by digests only.

    What the driver has done since the order is found, too, and who is named in the table of a plugin alone.
    """
    users, found = read_once(
        engine, lambda ledger: (_named(ledger, order, plugin_tables), _sessions(ledger, order, plugin_tables))
    )
    targets = find_targets(engine, session_ids=found)
    for user in users:
        targets |= find_targets(engine, user=user)
    return targets


def _named(ledger: Connection, order: ErasureOrder, plugin_tables: Iterable[PluginTable]) -> set[str]:
    columns: list[Column[Any]] = [*USER_COLUMNS, *(each.user for each in plugin_tables if each.user is not None)]
    names = {str(name) for column in columns for name in ledger.scalars(select(column).distinct()) if name}
    names |= set(_others_of_sessions(ledger))
    # One spelling: the search is for all of them.
    return set({name.lower(): name for name in names if _digest(order, name) in order.users}.values())


def _others_of_sessions(ledger: Connection) -> Iterator[str]:
    for facts in ledger.scalars(select(sessions.c.facts)):
        yield from facts.get("users", {})


def _sessions(ledger: Connection, order: ErasureOrder, plugin_tables: Iterable[PluginTable]) -> set[str]:
    digests = order.digests - order.users
    columns: list[Column[Any]] = [
        *SESSION_COLUMNS,
        *(each.session for each in plugin_tables if each.session is not None),
    ]
    ids = {str(id_) for column in columns for id_ in ledger.scalars(select(column).distinct()) if id_}
    return {id_ for id_ in ids if _digest(order, id_) in digests}


def _digest(order: ErasureOrder, name: str) -> str:
    return erasure_digest(order.salt, name)
