"""Charging keys that the Drive API lists, as of the last complete sync, and the keys that sessions started with."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime

from sqlalchemy import Connection, func, select, update

from handlers.kit.key_identifiers import normalize
from ingest.events import LONGEST_TEXT, sanitize_text
from workers.ledger.database.bulk_insert import upsert
from workers.ledger.database.conditions import in_list
from workers.ledger.database.engine import chunks, insert_into
from workers.ledger.tables.authorization_tables import authorizations, charging_keys, session_keys
from workers.ledger.tables.core_tables import IS_OPEN, sessions

FETCH_SIZE = 1000
CHARGING = "STARTED"
"""The only status in which a session surely charges."""


@dataclass(frozen=True, slots=True)
class KeyRow:
    """A charging key as it was listed; its identifier is spelled as `handlers.kit.key_identifiers.normalize` does."""

    identifier: str = field(repr=False)
    enabled: bool
    valid_to: datetime | None = None
    contract_id: str | None = field(default=None, repr=False)
    visual_number: str | None = field(default=None, repr=False)
    fleet_id: str | None = None


COLUMNS = [charging_keys.c[name] for name in KeyRow.__dataclass_fields__]


def replace_all(conn: Connection, listed: Iterable[KeyRow], generation: int, now: datetime) -> int:
    """Replace the whole list, and return how many keys changed.

    Keys that are no longer listed stay, marked as gone. Unchanged keys are not written: copies of the list read
    changes only.
    """
    new = {row.identifier: row for row in listed}
    present = select(*COLUMNS).where(charging_keys.c.gone_at.is_(None))
    known = {row.identifier: row for row in (KeyRow(*found) for found in conn.execute(present))}
    changed = [row for key, row in new.items() if known.get(key) != row]
    gone = [key for key in known if key not in new]
    for some in chunks(changed):
        upsert(conn, charging_keys, [{**asdict(row), "generation": generation, "gone_at": None} for row in some])
    for keys in chunks(gone):
        going = update(charging_keys).where(in_list(charging_keys.c.identifier, keys))
        conn.execute(going.values(generation=generation, gone_at=now))
    return len(changed) + len(gone)


def changed(conn: Connection, since: int, after: str, limit: int) -> list[tuple[KeyRow, bool]]:
    """List keys that changed after a generation, ordered by identifier, each with whether it is still listed."""
    query = (
        select(*COLUMNS, charging_keys.c.gone_at.is_(None))
        .where(charging_keys.c.generation > since, charging_keys.c.identifier > after)
        .order_by(charging_keys.c.identifier)
        .limit(limit)
    )
    return [(KeyRow(*columns), is_listed) for *columns, is_listed in conn.execute(query)]


def existing(conn: Connection, identifiers: Iterable[str]) -> set[str]:
    """Return the identifiers that are listed."""
    query = select(charging_keys.c.identifier).where(
        in_list(charging_keys.c.identifier, list(identifiers)), charging_keys.c.gone_at.is_(None)
    )
    return set(conn.scalars(query))


def count(conn: Connection) -> int:
    """Count the listed keys."""
    return conn.scalar(select(func.count()).where(charging_keys.c.gone_at.is_(None))) or 0


def record_session_keys(conn: Connection, keys: Mapping[str, str], now: datetime) -> None:
    """Record the keys that the Drive API names for sessions, by session id and in any spelling."""
    rows = [
        {"session_id": session_id, "key": sanitize_text(normalize(key))[:LONGEST_TEXT], "noted_at": now}
        for session_id, key in sorted(keys.items())
    ]
    if rows:
        conn.execute(insert_into(conn, session_keys).on_conflict_do_nothing(), rows)


def charging_sessions(conn: Connection, since: datetime) -> Iterator[tuple[str, str | None]]:
    """Yield (session id, user id) of the sessions that charge, with news since then.

    Not of all open ones: a session may wait to start, or its stop have failed, for long.

    Fetched in small parts, so that other threads run meanwhile.
    """
    query = select(sessions.c.session_id, sessions.c.user_id).where(
        IS_OPEN, sessions.c.status == CHARGING, sessions.c.updated_at >= since
    )
    yield from conn.execution_options(yield_per=FETCH_SIZE).execute(query)


def keys_of_sessions(conn: Connection, session_ids: Collection[str]) -> list[tuple[str, str]]:
    """List (session id, key) pairs; a session may have had authorization requests with several keys."""
    found: list[tuple[str, str]] = []
    for table in (session_keys, authorizations):
        query = select(table.c.session_id, table.c.key).where(
            in_list(table.c.session_id, session_ids), table.c.key.is_not(None)
        )
        found += [(session_id, key) for session_id, key in conn.execute(query.distinct())]
    return found
