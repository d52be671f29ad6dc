"""The charging keys that the Drive API lists, as of the last reading that was complete."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from datetime import datetime

from sqlalchemy import Connection, func, select, update

from workers.ledger.database.bulk_insert import upsert
from workers.ledger.database.engine import chunks
from workers.ledger.database.in_list import in_list
from workers.ledger.tables.authorization import charging_keys


@dataclass(frozen=True, slots=True)
class KeyRow:
    """A charging key as it was listed; its identifier is spelt as `handlers.kit.key_identifiers.normalize` does."""

    identifier: str = field(repr=False)
    enabled: bool
    valid_to: datetime | None = None
    contract_id: str | None = field(default=None, repr=False)
    visual_number: str | None = field(default=None, repr=False)
    fleet_id: str | None = None


FACTS = [charging_keys.c[name] for name in KeyRow.__dataclass_fields__]


def replace_all(conn: Connection, listed: Iterable[KeyRow], generation: int, now: datetime) -> int:
    """Put a whole list in the place of the last one, and return how many keys changed.

    Keys that are not listed any more are gone, and stay as such. What has not changed is not written: whoever holds a
    copy is told of changes only.
    """
    new = {row.identifier: row for row in listed}
    present = select(*FACTS).where(charging_keys.c.gone_at.is_(None))
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
    """List keys that changed after a generation, in the order of their identifiers; False with those that are gone."""
    query = (
        select(*FACTS, charging_keys.c.gone_at.is_(None))
        .where(charging_keys.c.generation > since, charging_keys.c.identifier > after)
        .order_by(charging_keys.c.identifier)
        .limit(limit)
    )
    return [(KeyRow(*facts), is_there) for *facts, is_there in conn.execute(query)]


def existing(conn: Connection, identifiers: Iterable[str]) -> set[str]:
    """Find out which of these are listed."""
    query = select(charging_keys.c.identifier).where(
        in_list(charging_keys.c.identifier, list(identifiers)), charging_keys.c.gone_at.is_(None)
    )
    return set(conn.scalars(query))


def count(conn: Connection) -> int:
    """Count the keys that are listed."""
    return conn.scalar(select(func.count()).where(charging_keys.c.gone_at.is_(None))) or 0
