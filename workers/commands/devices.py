"""`webhooks devices`: the devices of drivers, listed, added and removed by hand, and the HTTP server for the app."""

from datetime import UTC, datetime

import click
from sqlalchemy import Connection

from ingest.config.sections.logging import LoggingSettings
from ingest.config.sections.notifications import DeviceSettings
from ingest.config.sections.processing import StoreSettings
from ingest.config.sections.server import ServerSettings
from workers.commands import options
from workers.commands.audit import audit_entry, record_act
from workers.commands.errors import Failure, UsageFailure
from workers.commands.listing import Page, paged, print_rows
from workers.commands.stores import open_ledger, read_only_ledger
from workers.dev.env_file import settings_with_dev_defaults
from workers.devices.lookup import InvalidDevice, check_names, parse_device
from workers.ledger import devices as ledger_devices
from workers.ledger.audit_log import AuditAct
from workers.ledger.database.transaction import run_in_transaction
from workers.lists.device_list import DEVICES


@click.group(invoke_without_command=True)
@options.user
@options.since_option(help="Updated then or later: 10m, 2h or 3d ago, today, yesterday, 18:00, ISO 8601.")
@options.until
@paged
@click.pass_context
def devices(
    context: click.Context, *, user_id: str | None, since: datetime | None, until: datetime | None, page: Page
) -> None:
    """List the devices that pushes go to, the one updated last first; or add, remove, serve."""
    if context.invoked_subcommand is not None:
        return
    with read_only_ledger(settings_with_dev_defaults()) as conn:
        print_rows(DEVICES, ledger_devices.find(conn, person=user_id, since=since, until=until, limit=page.limit), page)


@devices.command()
@click.argument("user_id", metavar="USER")
@click.argument("token")
@click.option("--platform", metavar="NAME", help="android, ios or web.")
@click.option("--locale", metavar="TAG", help="Language of the app, such as de or nl-BE.")
@click.option("--time-zone", metavar="NAME", help="Where the driver is, such as Europe/Berlin.")
def add(user_id: str, token: str, *, platform: str | None, locale: str | None, time_zone: str | None) -> None:
    """Register a device, or change what is known of it."""
    try:
        check_names(user_id, token)
    except InvalidDevice as error:
        raise UsageFailure(str(error)) from error
    parsed = parse_device(token, {"platform": platform, "locale": locale, "time_zone": time_zone})
    entry = audit_entry(AuditAct.DEVICES_CHANGED, "devices add")

    def upsert(ledger: Connection) -> None:
        ledger_devices.upsert(ledger, user_id, parsed.device, datetime.now(UTC))
        record_act(ledger, entry)

    with open_ledger(settings_with_dev_defaults()) as engine:
        run_in_transaction(engine, upsert)
    click.echo("The device is registered.")
    for name in parsed.not_understood:
        click.echo(f"Its {name.replace('_', ' ')} was not understood: the default counts.", err=True)


@devices.command()
@click.argument("user_id", metavar="USER")
@click.argument("token")
def remove(user_id: str, token: str) -> None:
    """Remove a device."""
    entry = audit_entry(AuditAct.DEVICES_CHANGED, "devices remove")

    def delete(ledger: Connection) -> bool:
        is_deleted = ledger_devices.delete(ledger, user_id, token)
        if is_deleted:
            record_act(ledger, entry)
        return is_deleted

    with open_ledger(settings_with_dev_defaults()) as engine:
        if not run_in_transaction(engine, delete):
            raise Failure("That user has no such device.")
    click.echo("The device is removed.")


@devices.command()
def serve() -> None:
    """Serve the app, or its backend, which registers devices: PUT and DELETE /devices/{userId}/{token}.

    Listens on HOST and DEVICES_PORT, and requires ADMIN_TOKEN if that is set; on an address that other machines reach
    it must be set.
    """
    from workers.devices.devices_app import serve_devices  # noqa: PLC0415  only this one needs a server

    sections = DeviceSettings, ServerSettings, StoreSettings, LoggingSettings
    serve_devices(settings_with_dev_defaults(*sections))
