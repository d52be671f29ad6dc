"""The devices of drivers, as the app or its backend has registered them."""

from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import Connection, delete, select

from handlers.kit.channel import Device
from workers.ledger.database.engine import insert_into
from workers.ledger.database.in_list import in_list
from workers.ledger.tables.core import devices

MAX_PER_USER = 20
"""A push goes to the devices that were heard of last: nobody carries more, and an old token costs a request."""


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


def put(conn: Connection, user_id: str, device: Device, now: datetime) -> None:
    """Register a device, or what is new about it; a token that was another user's is this one's from now on."""
    values = {
        "user_id": user_id,
        "platform": device.platform,
        "locale": device.locale,
        "time_zone": device.time_zone,
        "updated_at": now,
    }
    statement = insert_into(conn, devices).values(token=device.token, **values)
    conn.execute(statement.on_conflict_do_update(index_elements=["token"], set_=values))


def remove(conn: Connection, user_id: str, token: str) -> bool:
    """Remove a device of a user, and say whether it was there."""
    return conn.execute(delete(devices).where(devices.c.token == token, devices.c.user_id == user_id)).rowcount == 1


def delete_tokens(conn: Connection, tokens: Collection[str]) -> None:
    """Remove devices that their provider does not know any more."""
    if tokens:
        conn.execute(delete(devices).where(in_list(devices.c.token, tokens)))


def of_user(conn: Connection, user_id: str) -> list[Device]:
    """List the devices of a user, the one heard of last first."""
    query = (
        select(devices.c.token, devices.c.platform, devices.c.locale, devices.c.time_zone)
        .where(devices.c.user_id == user_id)
        .order_by(devices.c.updated_at.desc(), devices.c.token)
        .limit(MAX_PER_USER)
    )
    return [Device(*row) for row in conn.execute(query)]


def find(conn: Connection, *, user_id: str | None = None, limit: int | None = None) -> list[DeviceRow]:
    """List devices, of one user or of all, the one heard of last first."""
    query = select(*COLUMNS).order_by(devices.c.updated_at.desc(), devices.c.token).limit(limit)
    if user_id is not None:
        query = query.where(devices.c.user_id == user_id)
    return [DeviceRow(*row) for row in conn.execute(query)]
