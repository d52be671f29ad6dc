"""Format objects of the Drive API, and its part in `webhooks session`: facts without an event, and polls."""

from typing import Any

from workers.drive.models import ChargingKey, DriveSession
from workers.lists.formatting import Cell, Json
from workers.lists.listing import Listing, attributes


def jsonable(document: Any) -> Json:
    """Return a document with its decimals as strings: as numbers, programs would round them."""
    match document:
        case dict():
            return {str(name): jsonable(value) for name, value in document.items()}
        case list():
            return [jsonable(value) for value in document]
        case str() | int() | None:
            return document
        case _:
            return str(document)


def session_rows(found: DriveSession) -> list[tuple[str, Cell]]:
    """Return the fields of a session with their labels."""
    return [
        ("session", found.session_id),
        ("driver", found.user_id),
        ("status", found.status),
        ("started", found.started_at),
        ("ended", found.ended_at),
        ("complete", found.completed_at),
        ("location", found.location_id),
        ("operator", found.operator_display_name),
        ("key", found.charging_key_id),
        ("balance", found.balance_status),
    ]


DRIVE_SESSIONS = Listing[DriveSession](
    fields={**attributes(*DriveSession.model_fields), "document": lambda found: jsonable(found.document)},
    columns={
        "started": "started_at",
        "ended": "ended_at",
        "status": "status",
        "session": "session_id",
        "location": "location_id",
        "operator": "operator_display_name",
    },
    order="first",
)
CHARGING_KEYS = Listing[ChargingKey](
    fields={**attributes(*ChargingKey.model_fields), "document": lambda found: jsonable(found.document)},
    columns={
        "key": "identifier",
        "enabled": "enabled",
        "valid to": "valid_to",
        "contract": "contract_id",
        "visual number": "visual_number",
        "fleet": "fleet_id",
    },
    order="first",
)
