"""Decisions on authorization requests: written after the response, several at once."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, select, union

from ingest.events import LONGEST_TEXT, sanitize_text
from workers.ledger import charging_key_usage
from workers.ledger.charging_key_usage import KeyRequest
from workers.ledger.database.bulk_insert import insert_new
from workers.ledger.database.conditions import Position, in_list, matching, older_than, within
from workers.ledger.tables.authorization_tables import authorizations

MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class DecisionRow:
    """A decision as the ledger knows it."""

    id: str
    at: datetime
    form: str
    decision: str
    policy: str | None
    """The policy that decided; None if none had an opinion, or none could be asked."""
    reason: str | None
    latency_us: int
    session_id: str | None = None
    reference_id: str | None = None
    location_id: str | None = None
    country_code: str | None = None
    key: str | None = field(default=None, repr=False)
    repeated: bool = False
    """Whether the same request came within the window before, and got the same response."""
    failure: str | None = None
    """Why AUTHORIZE_ON_FAILURE was the response."""

    @property
    def latency(self) -> timedelta:
        """How long the response took."""
        return self.latency_us * MICROSECOND


COLUMNS = [authorizations.c[name] for name in DecisionRow.__dataclass_fields__]
UNTRUSTED_COLUMNS = ("form", "session_id", "reference_id", "location_id", "country_code", "key")


@dataclass(frozen=True, slots=True)
class DecisionFilter:
    """Which decisions to find; None matches all."""

    since: datetime | None = None
    until: datetime | None = None
    decision: str | None = None
    policy: str | None = None
    keys: Sequence[str] | None = None
    session_id: str | None = None


def insert(conn: Connection, rows: Iterable[DecisionRow]) -> None:
    """Insert decisions, and count the new ones by charging key; known ones stay unchanged."""
    values = {row.id: _values(row) for row in rows}
    new = [values[id_] for (id_,) in insert_new(conn, authorizations, list(values.values()))]
    asked = [KeyRequest(each["key"], each["decision"], each["at"], each["session_id"]) for each in new if each["key"]]
    charging_key_usage.count(conn, asked)


def find(
    conn: Connection, wanted: DecisionFilter, limit: int | None = None, before: Position | None = None
) -> list[DecisionRow]:
    """List decisions, newest first; those behind a position are the next page."""
    table = authorizations.c
    equal = {"decision": wanted.decision, "policy": wanted.policy, "session_id": wanted.session_id}
    conditions = within(table.at, wanted.since, wanted.until) + matching(authorizations, **equal, key=wanted.keys)
    conditions += older_than(table.at, table.id, before)
    query = select(*COLUMNS).where(*conditions).order_by(table.at.desc(), table.id).limit(limit)
    return [DecisionRow(*row) for row in conn.execute(query)]


def find_of(
    conn: Connection, session_ids: Collection[str], keys: Collection[str], limit: int | None
) -> list[DecisionRow]:
    """List the decisions about these sessions and these charging keys, newest first."""
    # Not one condition with OR: PostgreSQL would read all decisions, the newest first.
    about = in_list(authorizations.c.session_id, session_ids), in_list(authorizations.c.key, keys)
    these = union(*(select(*COLUMNS).where(each) for each in about)).subquery()
    query = select(these).order_by(these.c.at.desc(), these.c.id).limit(limit)
    return [DecisionRow(*row) for row in conn.execute(query)]


def keys_asked_for(conn: Connection, since: datetime, limit: int) -> set[str]:
    """Return the keys of the latest requests since then."""
    table = authorizations.c
    query = select(table.key).where(table.at >= since, table.key.is_not(None)).order_by(table.at.desc()).limit(limit)
    return set(conn.scalars(query))


def _values(row: DecisionRow) -> dict[str, Any]:
    values: dict[str, Any] = asdict(row)
    for name in UNTRUSTED_COLUMNS:
        text = values[name]
        if isinstance(text, str):  # from outside: it may hold anything, and be too long for an index
            values[name] = sanitize_text(text)[:LONGEST_TEXT]
    return values
