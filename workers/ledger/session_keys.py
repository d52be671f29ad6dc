"""Which key a session was started with: from what we were asked at the charger, and from the Drive API."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, select

from handlers.kit.key_identifiers import normalize
from ingest.events import LONGEST_TEXT, sanitize_text
from workers.ledger.database.engine import insert_into
from workers.ledger.database.in_list import in_list
from workers.ledger.tables.authorization import authorizations, session_keys
from workers.ledger.tables.core import IS_OPEN, sessions

AT_ONCE = 1000


@dataclass(frozen=True, slots=True)
class OpenSession:
    """A session of which nothing says that it is over."""

    session_id: str
    user_id: str | None


def record(conn: Connection, keys: Mapping[str, str], now: datetime) -> None:
    """Keep the keys that the Drive API names, each by its session, however they are spelt there."""
    rows = [
        {"session_id": session_id, "key": sanitize_text(normalize(key))[:LONGEST_TEXT], "noted_at": now}
        for session_id, key in sorted(keys.items())
    ]
    if rows:
        conn.execute(insert_into(conn, session_keys).on_conflict_do_nothing(), rows)


def open_sessions(conn: Connection, since: datetime) -> Iterator[OpenSession]:
    """List the open sessions that had news since then; rows come in small numbers, so that other threads run too."""
    query = select(sessions.c.session_id, sessions.c.user_id).where(IS_OPEN, sessions.c.updated_at >= since)
    for row in conn.execution_options(yield_per=AT_ONCE).execute(query):
        yield OpenSession(*row)


def keys_of(conn: Connection, session_ids: Collection[str]) -> list[tuple[str, str]]:
    """Find the keys of sessions, each with its session; a session may have been asked about with several."""
    found: list[tuple[str, str]] = []
    for table in (session_keys, authorizations):
        query = select(table.c.session_id, table.c.key).where(
            in_list(table.c.session_id, session_ids), table.c.key.is_not(None)
        )
        found += [(session_id, key) for session_id, key in conn.execute(query.distinct())]
    return found
