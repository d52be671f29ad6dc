"""Search by one text: drivers, sessions, deliveries, pushes, CDRs and charging keys, exactly or by their beginning."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Column, ColumnElement, Connection, func, or_, select

from handlers.kit.cdr_table import cdrs
from handlers.kit.key_identifiers import search_spellings
from ingest.config.settings import Settings
from ingest.events import sanitize_text
from workers.ledger.database.conditions import begins_with, in_list, lowered, same_person
from workers.ledger.tables.authorization_tables import authorizations
from workers.ledger.tables.core_tables import deliveries, devices, pushes, sessions

MAX_HITS = 10
"""Of each kind."""
SHORTEST = 3
"""Characters of a beginning; fewer find only what is exactly so."""

DRIVER, SESSION, DELIVERY, PUSH, CDR, KEY = "driver", "session", "delivery", "push", "CDR", "key"
# Where the names of each kind are. A driver's id may be a mail address, so it is compared in lower case.
NAMES: Mapping[str, Sequence[Column[Any]]] = {
    DRIVER: (sessions.c.user_id, cdrs.c.user_id, pushes.c.user_id, devices.c.user_id),
    SESSION: (sessions.c.session_id, deliveries.c.session_id, cdrs.c.session_id),
    DELIVERY: (deliveries.c.id,),
    PUSH: (pushes.c.id,),
    CDR: (cdrs.c.identity,),
}
BEGINNINGS = {**NAMES, DRIVER: (sessions.c.user_id, cdrs.c.user_id), SESSION: (sessions.c.session_id,)}


class SearchHit(NamedTuple):
    """Something whose name is the text, or begins with it."""

    kind: str
    name: str


def search(conn: Connection, settings: Settings, text: str) -> list[SearchHit]:
    """Find what has this name, else what begins with it; drivers in any case. Up to MAX_HITS of each kind."""
    text = sanitize_text(text.strip())
    if not text:
        return []
    exact = list(dict.fromkeys(_exact(conn, settings, text)))
    if exact or len(text) < SHORTEST:
        return exact
    return list(dict.fromkeys(_beginning(conn, text)))


def _exact(conn: Connection, settings: Settings, text: str) -> Iterator[SearchHit]:
    for kind, columns in NAMES.items():
        for column in columns:
            is_it = same_person(column, text) if kind == DRIVER else column == text
            yield from _hits(conn, kind, column, is_it, limit=1)
    keys = search_spellings(text, settings.authorize_key_bytes)
    for column in (authorizations.c.key, cdrs.c.charging_key):
        yield from _hits(conn, KEY, column, in_list(column, keys), limit=1)


def _beginning(conn: Connection, text: str) -> Iterator[SearchHit]:
    for kind, columns in BEGINNINGS.items():
        for column in columns:
            if kind == DRIVER:
                begins = or_(*(begins_with(conn, func.lower(column), each) for each in lowered(text)))
            else:
                begins = begins_with(conn, column, text)
            yield from _hits(conn, kind, column, begins, limit=MAX_HITS)


def _hits(
    conn: Connection, kind: str, column: Column[Any], condition: ColumnElement[bool], limit: int
) -> Iterator[SearchHit]:
    query = select(column).where(condition).limit(limit)
    yield from (SearchHit(kind, name) for name in conn.scalars(query))
