"""`webhooks devices`: the devices of drivers, listed, added and removed by hand, and the listener for the app."""

from collections.abc import Sequence
from datetime import UTC, datetime

import click

from workers.commands import options
from workers.commands.errors import Failure, UsageFailure
from workers.commands.output import Cell, Json, iso, json_line, table
from workers.commands.stores import open_ledger, read_only_ledger
from workers.dev.env_file import settings_with_dev_defaults
from workers.devices.lookup import InvalidDevice, check_names, parse_device
from workers.ledger import devices as ledger_devices
from workers.ledger.database.transaction import run_in_transaction
from workers.ledger.devices import DeviceRow

SHOWN = 16
"""Signs of a token that a person is shown."""


@click.group(invoke_without_command=True)
@click.option("--user", "user_id", metavar="ID", help="Whose devices.")
@options.limit
@options.as_json
@click.pass_context
def devices(context: click.Context, *, user_id: str | None, limit: int | None, as_json: bool) -> None:
    """List the devices that pushes go to, the one heard of last first; or add, remove, serve."""
    if context.invoked_subcommand is not None:
        return
    limit = options.limit_for(limit, as_json=as_json)
    with read_only_ledger(settings_with_dev_defaults()) as conn:
        found = ledger_devices.find(conn, user_id=user_id, limit=limit)
    if as_json:
        for row in found:
            json_line(device_json(row))
        return
    table(("heard of", "user", "platform", "locale", "time zone", "token"), [_cells(row) for row in found])
    options.warn_if_truncated(len(found), limit)


@devices.command()
@click.argument("user_id", metavar="USER")
@click.argument("token")
@click.option("--platform", metavar="NAME", help="android, ios or web.")
@click.option("--locale", metavar="TAG", help="Language of the app, such as de or nl-BE.")
@click.option("--time-zone", metavar="NAME", help="Where the driver is, such as Europe/Berlin.")
def add(user_id: str, token: str, *, platform: str | None, locale: str | None, time_zone: str | None) -> None:
    """Register a device, or change what is known of it."""
    told = {"platform": platform, "locale": locale, "time_zone": time_zone}
    try:
        check_names(user_id, token)
        device = parse_device(token, told)
    except InvalidDevice as error:
        raise UsageFailure(str(error)) from error
    with open_ledger(settings_with_dev_defaults()) as engine:
        run_in_transaction(engine, lambda ledger: ledger_devices.upsert(ledger, user_id, device, datetime.now(UTC)))
    click.echo("The device is registered.")


@devices.command()
@click.argument("user_id", metavar="USER")
@click.argument("token")
def remove(user_id: str, token: str) -> None:
    """Remove a device."""
    with open_ledger(settings_with_dev_defaults()) as engine:
        if not run_in_transaction(engine, lambda ledger: ledger_devices.delete(ledger, user_id, token)):
            raise Failure("That user has no such device.")
    click.echo("The device is removed.")


@devices.command()
def serve() -> None:
    """Let the app, or its backend, register devices: PUT and DELETE /devices/{userId}/{token}.

    Listens on HOST and DEVICES_PORT, and asks for ADMIN_TOKEN if that is set; on an address that other machines reach
    it must be.
    """
    from workers.devices.app import serve_devices  # noqa: PLC0415  only this one needs a server

    serve_devices(settings_with_dev_defaults())


def device_json(row: DeviceRow) -> dict[str, Json]:
    """Write a device as `devices --json` does."""
    return {
        "user_id": row.user_id,
        "token": row.token,
        "platform": row.platform,
        "locale": row.locale,
        "time_zone": row.time_zone,
        "updated_at": iso(row.updated_at),
    }


def _cells(row: DeviceRow) -> Sequence[Cell]:
    token = row.token if len(row.token) <= SHOWN else f"{row.token[:SHOWN]}…"
    return row.updated_at, row.user_id, row.platform, row.locale, row.time_zone, token
