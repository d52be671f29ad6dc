"""How sessions and charging keys of the Drive API look, to people and to programs."""

from typing import Any

from workers.commands.output import Cell, Json
from workers.drive.models import ChargingKey, DriveSession


def session_json(found: DriveSession) -> dict[str, Json]:
    """Write a session as `--json` does."""
    told = found.model_dump(mode="json", exclude={"document"})
    return {**told, "document": jsonable(found.document)}


def key_json(found: ChargingKey) -> dict[str, Json]:
    """Write a charging key as `--json` does."""
    return {**found.model_dump(mode="json", exclude={"document"}), "document": jsonable(found.document)}


def jsonable(document: Any) -> Json:
    """Write decimals as text: as a number, a program would read them as what they are not quite."""
    match document:
        case dict():
            return {str(name): jsonable(value) for name, value in document.items()}
        case list():
            return [jsonable(value) for value in document]
        case str() | int() | None:
            return document
        case _:
            return str(document)


def session_facts(found: DriveSession) -> list[tuple[str, Cell]]:
    """Name what is known of a session."""
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


def session_cells(found: DriveSession) -> tuple[Cell, ...]:
    """Write a session as a row of a table."""
    return (
        found.started_at,
        found.ended_at,
        found.status,
        found.session_id,
        found.location_id,
        found.operator_display_name,
    )


def key_cells(found: ChargingKey) -> tuple[Cell, ...]:
    """Write a charging key as a row of a table."""
    enabled = "yes" if found.enabled else "no"
    return found.identifier, enabled, found.valid_to, found.contract_id, found.visual_number, found.fleet_id
