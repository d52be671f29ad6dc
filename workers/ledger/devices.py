"""Devices of drivers, as the app or its backend has registered them."""

from collections.abc import Collection
from dataclasses import asdict, dataclass, field
from datetime import datetime

import sqlalchemy
from sqlalchemy import Connection, select

from handlers.kit.channel import Device
from workers.ledger.database.conditions import Position, in_list, matching, older_than, same_person, within
from workers.ledger.database.engine import insert_into
from workers.ledger.tables.core_tables import devices


@dataclass(frozen=True, slots=True)
class DeviceRow:
    """A device as the ledger knows it."""

    user_id: str = field(repr=False)
    token: str = field(repr=False)
    platform: str | None
    locale: str | None
    time_zone: str | None
    updated_at: datetime


COLUMNS = [devices.c[name] for name in DeviceRow.__dataclass_fields__]


def upsert(conn: Connection, user_id: str, device: Device, now: datetime) -> None:
    """Register or update a device; a token of another user becomes this user's."""
    values = {"user_id": user_id, "updated_at": now, **asdict(device)}
    token = values.pop("token")
    statement = insert_into(conn, devices).values(token=token, **values)
    conn.execute(statement.on_conflict_do_update(index_elements=["token"], set_=values))


def delete(conn: Connection, user_id: str, token: str) -> bool:
    """Delete a device of a user, and return whether it was there."""
    mine = sqlalchemy.delete(devices).where(devices.c.token == token, devices.c.user_id == user_id)
    return conn.execute(mine).rowcount == 1


def delete_tokens(conn: Connection, tokens: Collection[str]) -> None:
    """Delete devices that their provider does not know any more."""
    if tokens:
        conn.execute(sqlalchemy.delete(devices).where(in_list(devices.c.token, tokens)))


def of_user(conn: Connection, user_id: str, limit: int | None = None) -> list[Device]:
    """List the devices of a user, the last registered first."""
    rows = find(conn, user_id=user_id, limit=limit)
    return [Device(row.token, row.platform, row.locale, row.time_zone) for row in rows]


def find(  # noqa: PLR0913 - filters, by name
    conn: Connection,
    *,
    user_id: str | None = None,
    person: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    before: Position | None = None,
    limit: int | None = None,
) -> list[DeviceRow]:
    """List devices, of one user (`person`: in any case) or of all, the last registered first."""
    conditions = [*matching(devices, user_id=user_id), *within(devices.c.updated_at, since, until)]
    conditions += older_than(devices.c.updated_at, devices.c.token, before)
    if person is not None:
        conditions.append(same_person(devices.c.user_id, person))
    query = select(*COLUMNS).where(*conditions).order_by(devices.c.updated_at.desc(), devices.c.token).limit(limit)
    return [DeviceRow(*row) for row in conn.execute(query)]
