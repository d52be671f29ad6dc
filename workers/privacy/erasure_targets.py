"""Find what the ledger has of a driver or of sessions: in columns, in documents, and in the bodies of deliveries."""

import json
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from itertools import product
from typing import Any
from urllib.parse import unquote

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Engine,
    Text,
    cast,
    func,
    or_,
    select,
)

from handlers.kit.cdr_table import cdrs
from ingest.queue.erasure_orders import is_distinctive, words_of
from workers.ledger.database.conditions import in_list, same_person
from workers.ledger.database.transaction import read_once
from workers.ledger.tables.alert_tables import alerts
from workers.ledger.tables.audit_tables import audit
from workers.ledger.tables.authorization_tables import session_keys
from workers.ledger.tables.core_tables import deliveries, devices, pushes, runs, sessions

HEX = "0123456789abcdef"


@dataclass(frozen=True, slots=True)
class ErasureTargets:
    """What an erasure looks for: ids of a driver or of sessions, and the rows of the ledger that have them."""

    users: frozenset[str] = frozenset()
    """The driver's id, in all its spellings; empty if only sessions are erased."""
    sessions: frozenset[str] = frozenset()
    keys: frozenset[str] = frozenset()
    """Charging keys that were used in these sessions."""
    deliveries: frozenset[str] = frozenset()
    job_ids: frozenset[str] = frozenset()
    """RQ jobs of their runs."""
    records: frozenset[tuple[str, int]] = frozenset()
    """Charging records, by delivery and position."""
    alerts: frozenset[str] = frozenset()
    acts: frozenset[str] = frozenset()
    """Entries of the audit log whose subject names them: a page that somebody looked at."""

    @property
    def names(self) -> frozenset[str]:
        """All ids by which something may name them."""
        return self.users | self.sessions | self.keys

    @property
    def has_rows(self) -> bool:
        """Return whether anything was found that has the ids; rows that have a driver alone, as devices, apart."""
        return bool(self.deliveries or self.records or self.alerts or self.acts)

    def __or__(self, other: "ErasureTargets") -> "ErasureTargets":
        """Return the targets of both erasures."""
        return ErasureTargets(
            **{each.name: getattr(self, each.name) | getattr(other, each.name) for each in fields(self)}
        )


def find_targets(engine: Engine, *, user: str | None = None, session_ids: Collection[str] = ()) -> ErasureTargets:
    """Find all that the ledger has of a driver or of sessions. Reads every body once, in slices."""
    found = read_once(engine, lambda ledger: _find_sessions(ledger, user, frozenset(session_ids)))
    named = _bodies_with(engine, found.names)
    return read_once(engine, lambda ledger: _find_rows(ledger, found, named))


def find_late_targets(
    engine: Engine, session_ids: Collection[str], records: Collection[tuple[str, int]]
) -> ErasureTargets:
    """Find what has come late of sessions that were erased, by their ids alone, and of these charging records."""
    found = ErasureTargets(sessions=frozenset(session_ids), records=frozenset(records))
    named = {delivery_id for delivery_id, _ in records}
    return read_once(engine, lambda ledger: _find_rows(ledger, found, named))


def _find_sessions(ledger: Connection, user: str | None, session_ids: frozenset[str]) -> ErasureTargets:
    users: set[str] = set()
    session_ids |= _spelled_otherwise(ledger, session_ids)
    if user is not None:
        # As SQLite's lower() does, only ASCII letters are lowered.
        document = func.lower(cast(sessions.c.facts, Text))
        in_facts = [document.contains(json.dumps(each).lower(), autoescape=True) for each in _cases(user)]
        theirs = select(sessions.c.session_id, sessions.c.facts).where(
            or_(same_person(sessions.c.user_id, user), *in_facts)
        )
        users.add(user)
        for session_id, facts in ledger.execute(theirs):
            spelled = {each for each in facts.get("users", {}) if each.lower() == user.lower()}
            users |= spelled
            session_ids |= {session_id} if spelled else frozenset()
        named = set[str]()
        for table in (pushes, cdrs):
            column: Column[Any] = table.c.user_id
            for session_id, spelled_id in ledger.execute(
                select(table.c.session_id, column).where(same_person(column, user))
            ):
                users.add(spelled_id)
                named |= {session_id} if session_id else set()
        session_ids |= named - _sessions_of_others(ledger, named, user)
        users |= set(ledger.scalars(select(devices.c.user_id).where(same_person(devices.c.user_id, user))))
    keys = set(ledger.scalars(select(session_keys.c.key).where(in_list(session_keys.c.session_id, session_ids))))
    of_cdrs = select(cdrs.c.charging_key).where(
        or_(in_list(cdrs.c.session_id, session_ids), in_list(cdrs.c.user_id, users))
    )
    keys |= set(ledger.scalars(of_cdrs))
    keys -= {None, "", *_keys_of_others(ledger, keys, users, session_ids)}
    return ErasureTargets(frozenset(users), session_ids, frozenset(keys))


def _spelled_otherwise(ledger: Connection, session_ids: Collection[str]) -> set[str]:
    """Return these sessions as the ledger spells them: in bodies, and by digests, they are found in any case."""
    lower = {each.lower() for each in session_ids}
    columns: tuple[Column[Any], ...] = (sessions.c.session_id, cdrs.c.session_id)
    return {
        str(each)
        for column in columns
        for each in (ledger.scalars(select(column).where(in_list(func.lower(column), lower))) if lower else ())
    }


def _cases(user: str) -> list[str]:
    """Return an id in all cases that a database may not know to be the same: SQLite's lower() knows ASCII only."""
    return sorted({user, user.lower(), user.upper()})


def _sessions_of_others(ledger: Connection, session_ids: Collection[str], user: str) -> set[str]:
    """Return those of these sessions that have drivers, and not this one: one may be told of a session of another."""
    query = select(sessions.c.session_id, sessions.c.facts).where(in_list(sessions.c.session_id, session_ids))
    drivers = {
        session_id: {each.lower() for each in facts.get("users", {})} for session_id, facts in ledger.execute(query)
    }
    return {session_id for session_id, names in drivers.items() if names and user.lower() not in names}


def _keys_of_others(
    ledger: Connection, keys: Collection[str], users: Collection[str], session_ids: Collection[str]
) -> set[str]:
    """Return those of these charging keys that were also used in other sessions, as a card that many share."""
    of_sessions = select(session_keys.c.key, session_keys.c.session_id).where(in_list(session_keys.c.key, keys))
    of_cdrs = select(cdrs.c.charging_key, cdrs.c.session_id, cdrs.c.user_id).where(in_list(cdrs.c.charging_key, keys))
    used = [(key, session_id, None) for key, session_id in ledger.execute(of_sessions)]
    used += [(key, session_id, user_id) for key, session_id, user_id in ledger.execute(of_cdrs.distinct())]
    return {key for key, session_id, user_id in used if session_id not in session_ids and user_id not in users}


def _find_rows(ledger: Connection, found: ErasureTargets, named: Collection[str]) -> ErasureTargets:
    records = found.records | {
        (delivery_id, position)
        for delivery_id, position in ledger.execute(
            select(cdrs.c.delivery_id, cdrs.c.position).where(
                or_(in_list(cdrs.c.session_id, found.sessions), in_list(cdrs.c.user_id, found.users))
            )
        )
    }
    ids = set(named) | {delivery_id for delivery_id, _ in records}
    ids |= set(ledger.scalars(select(deliveries.c.id).where(in_list(deliveries.c.session_id, found.sessions))))
    # A delivery of another's session stays, whoever was told of it.
    told_of = select(pushes.c.delivery_id).join(deliveries, deliveries.c.id == pushes.c.delivery_id)
    told_of = told_of.where(in_list(pushes.c.user_id, found.users), deliveries.c.session_id.is_(None))
    ids |= set(ledger.scalars(told_of))
    jobs = select(runs.c.job_id).where(in_list(runs.c.delivery_id, ids), runs.c.job_id.is_not(None))
    return replace(
        found,
        deliveries=frozenset(ids),
        job_ids=frozenset(ledger.scalars(jobs)),
        records=records,
        alerts=_find_alerts(ledger, found, ids),
        acts=_find_acts(ledger, found.names),
    )


def _bodies_with(engine: Engine, names: Collection[str]) -> set[str]:
    """Return the deliveries whose bodies have one of these names. Each transaction reads a part of the ledger.

    A short number or word names nobody in a delivery that has a session: if that is theirs, it is found by its id.
    """
    found: set[str] = set()
    distinctive = set(filter(is_distinctive, names))
    # Bodies are compressed, so that no database can search them.
    has_one = re.compile(b"|".join(map(re.escape, sorted(_spellings(names)))) or b"(?!)").search

    def named_in(ledger: Connection, part: Sequence[ColumnElement[bool]]) -> set[str]:
        query = select(deliveries.c.id, deliveries.c.session_id, deliveries.c.body).where(*part)
        return {
            id_
            for id_, session_id, body in ledger.execute(query)
            if has_one(body.lower()) and is_named(distinctive if session_id else names, body)
        }

    for low in map("".join, product(HEX, repeat=2)):
        part = (deliveries.c.id >= low, deliveries.c.id < _after(low))
        found |= read_once(engine, partial(named_in, part=part))
    return found


def is_named(names: Collection[str], *texts: bytes | str | None) -> bool:
    """Return whether a text has one of the names as a word, and not as part of one."""
    lower = {name.lower() for name in names}
    return any(word.lower() in lower for text in texts for word in words_of(text))


def _after(low: str) -> str:
    return low[:-1] + chr(ord(low[-1]) + 1)


def _spellings(names: Iterable[str]) -> set[bytes]:
    """Return names as they are, and as JSON may write them, with small ASCII letters."""
    texts = {case for name in names for case in _cases(name)}
    texts |= {json.dumps(text, ensure_ascii=ascii_only)[1:-1] for text in texts for ascii_only in (True, False)}
    texts |= {text.replace("/", "\\/") for text in texts}
    return {text.encode("utf-8", "replace").lower() for text in texts}


def _find_alerts(ledger: Connection, found: ErasureTargets, delivery_ids: Collection[str]) -> frozenset[str]:
    query = select(alerts.c.id, alerts.c.session_id, alerts.c.delivery_id, alerts.c.subject, alerts.c.sentence)
    return frozenset(
        row.id
        for row in ledger.execute(query)
        if row.session_id in found.sessions
        or row.delivery_id in delivery_ids
        or is_named(found.names, row.subject, row.sentence)
    )


def _find_acts(ledger: Connection, names: Collection[str]) -> frozenset[str]:
    query = select(audit.c.id, audit.c.subject).where(audit.c.subject.is_not(None))
    return frozenset(id_ for id_, subject in ledger.execute(query) if is_named(names, unquote(subject)))
