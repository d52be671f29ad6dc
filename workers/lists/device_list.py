"""The list of drivers' devices."""

from workers.ledger.devices import DeviceRow
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
