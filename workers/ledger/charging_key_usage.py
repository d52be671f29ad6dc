"""Counts how often charging keys were asked for, and what was decided, as decisions are stored."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import ColumnElement, Connection, case, literal_column, select

from workers.ledger.database.conditions import Position, in_list, matching, older_than, widened, within
from workers.ledger.database.engine import insert_into
from workers.ledger.tables.authorization_tables import authorizations, charging_keys
from workers.ledger.tables.core_tables import sessions
from workers.ledger.tables.key_tables import ANY_DECISION, charging_key_uses

# A literal, not a parameter: both databases use their partial index for it only.
IS_OF_ANY = charging_key_uses.c.decision == literal_column(f"'{ANY_DECISION}'")


class KeyRequest(NamedTuple):
    """One request for a charging key, and what was decided."""

    key: str
    decision: str
    at: datetime
    session_id: str | None


@dataclass(frozen=True)
class ChargingKeyUse:
    """What was decided about a charging key, and whose it seems to be."""

    key: str = field(repr=False)
    asked: int
    first_at: datetime
    last_at: datetime
    session_id: str | None
    """The session of the last request."""
    user_id: str | None
    """The driver of that session."""
    is_enabled: bool | None
    """None if the Drive API does not list it."""
    decisions: Mapping[str, int]


def count(conn: Connection, requests: Iterable[KeyRequest]) -> None:
    """Count decisions that were stored, by charging key, and remember the session of the last one.

    The row of all decisions about a key comes first: who has locked it has the others, too.
    """
    by_key: dict[tuple[str, str], list[KeyRequest]] = defaultdict(list)
    for each in requests:
        for decision in (each.decision, ANY_DECISION):
            by_key[each.key, decision].append(each)
    values = []
    for key, decision in sorted(by_key, key=lambda each: (each[0], each[1] != ANY_DECISION, each[1])):
        some = by_key[key, decision]
        first, last = min(each.at for each in some), max(some, key=lambda each: each.at)
        use = {"asked": len(some), "first_at": first, "last_at": last.at, "session_id": last.session_id}
        values.append({"key": key, "decision": decision, **use})
    if values:
        new = insert_into(conn, charging_key_uses)
        known = charging_key_uses.c
        latest = case((new.excluded.last_at >= known.last_at, new.excluded.session_id), else_=known.session_id)
        counts = {"asked": known.asked + new.excluded.asked, "session_id": latest, **widened(new)}
        conn.execute(new.on_conflict_do_update(index_elements=["key", "decision"], set_=counts), values)


def find(  # noqa: PLR0913 - filters, by name
    conn: Connection,
    *,
    keys: Sequence[str] | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    before: Position | None = None,
    limit: int | None = None,
) -> list[ChargingKeyUse]:
    """List charging keys that were asked for, the one used last first; those behind a position are the next page."""
    table = charging_key_uses.c
    columns = (table.key, table.asked, table.first_at, table.last_at, table.session_id)
    conditions = [
        IS_OF_ANY,
        *matching(charging_key_uses, key=keys),
        *within(table.last_at, since, until),
        *older_than(table.last_at, table.key, before),
    ]
    listed = charging_keys.c
    source = charging_key_uses.outerjoin(sessions, sessions.c.session_id == table.session_id).outerjoin(
        charging_keys, (listed.identifier == table.key) & listed.gone_at.is_(None)
    )
    query = select(*columns, sessions.c.user_id, listed.enabled).select_from(source).where(*conditions)
    found = conn.execute(query.order_by(table.last_at.desc(), table.key).limit(limit)).all()
    decisions = _decisions(conn, [row.key for row in found])
    return [ChargingKeyUse(*row, decisions=decisions.get(row.key, {})) for row in found]


def lock(conn: Connection, *conditions: ColumnElement[bool]) -> list[str]:
    """Lock the counts of the charging keys of these rows until the transaction ends, and return the keys.

    In the order of `count`: in another one, each could wait for what the other one has.
    """
    key = charging_key_uses.c.key
    return list(conn.scalars(select(key).where(IS_OF_ANY, *conditions).order_by(key).with_for_update()))


def asked_in(session_ids: Iterable[str]) -> ColumnElement[bool]:
    """Build the condition that a key was asked for in one of these sessions."""
    asked = select(authorizations.c.key).where(in_list(authorizations.c.session_id, list(session_ids)))
    return charging_key_uses.c.key.in_(asked)


def _decisions(conn: Connection, keys: Sequence[str]) -> dict[str, dict[str, int]]:
    table = charging_key_uses.c
    query = select(table.key, table.decision, table.asked).where(in_list(table.key, keys))
    found: dict[str, dict[str, int]] = defaultdict(dict)
    for key, decision, asked in sorted(tuple(row) for row in conn.execute(query.where(table.decision != ANY_DECISION))):
        found[key][decision] = asked
    return found
