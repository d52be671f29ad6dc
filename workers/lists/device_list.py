"""The list of drivers' devices."""

from workers.ledger import devices as ledger_devices
from workers.ledger.devices import DeviceRow
from workers.lists.list_query import SINCE, UNTIL, USER, ListQuery, Selection, Stores
from workers.lists.listing import Listing, attributes

SHOWN = 16
"""How many characters of a token a person is shown."""


DEVICES = Listing[DeviceRow](
    fields=attributes("user_id", "token", "platform", "locale", "time_zone", "updated_at"),
    columns={
        "updated": "updated_at",
        "user": "user_id",
        "platform": "platform",
        "locale": "locale",
        "time zone": "time_zone",
        "token": lambda row: row.token if len(row.token) <= SHOWN else f"{row.token[:SHOWN]}…",
    },
)


def _find_devices(stores: Stores, wanted: Selection) -> list[DeviceRow]:
    return ledger_devices.find(
        stores.ledger,
        person=wanted.get("user"),
        since=wanted.get("since"),
        until=wanted.get("until"),
        before=wanted.before,
        limit=wanted.limit,
    )


DEVICE_QUERY = ListQuery[DeviceRow](
    name="devices",
    title="Devices",
    listing=DEVICES,
    find=_find_devices,
    position=lambda row: (row.updated_at, row.token),
    filters=(USER, SINCE, UNTIL),
)
