"""`webhooks drive`: call the Drive API by hand, change fleets, and push tokens to Roam OCPI."""

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from datetime import datetime
from itertools import islice
from typing import TypeVar

import click
from pydantic import ValidationError
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from ingest.queue.redis_client import connect_redis
from workers.commands import options
from workers.commands.audit import audit_entry, record_aside
from workers.commands.drive_output import CHARGING_KEYS, DRIVE_SESSIONS, jsonable, session_rows
from workers.commands.drive_simulator import compare_with_simulator, set_drive_faults, simulate_drive
from workers.commands.errors import UsageFailure
from workers.commands.listing import Page, print_rows
from workers.commands.output import json_line, key_values, logs_to_stderr
from workers.dev.env_file import settings_with_dev_defaults
from workers.drive.client import DriveClient
from workers.drive.drive_requests import MAX_PAGE_SIZE, MIN_PAGE_SIZE
from workers.drive.models import ALL_STATUSES, RoamToken, Whitelist
from workers.ledger.audit_log import AuditAct

T = TypeVar("T")

REDIS_TIMEOUT = 2
"""Seconds. Without Redis a command counts its own calls."""

since = options.since_option(help="Started then or later: ISO 8601, or 2h ago.")
limit = click.option("--limit", type=click.IntRange(min=1), help="How many. Default: all.")
until = options.until_option(help="Started then or before.")


@click.group()
def drive() -> None:
    """Call the Drive API at DRIVE_API_URL with DRIVE_API_KEY. Amounts in JSON are strings, exact to the last digit."""


drive.add_command(simulate_drive)
drive.add_command(compare_with_simulator)
drive.add_command(set_drive_faults)


@drive.command()
@click.argument("user_id", metavar="USER")
@click.argument("session_id", metavar="SESSION")
@options.as_json
def session(user_id: str, session_id: str, *, as_json: bool) -> None:
    """Read one session, finished or not."""
    with drive_client() as client:
        found = client.session(user_id, session_id)
    if as_json:
        json_line(DRIVE_SESSIONS.json(found))
        return
    key_values([(name, value) for name, value in session_rows(found) if value is not None])


@drive.command()
@click.argument("user_id", metavar="USER")
@click.option("--status", "statuses", multiple=True, metavar="NAME", help="May be repeated. Default: all known.")
@click.option("--key", "charging_key_id", metavar="ID", help="Only those with this charging key.")
@since
@until
@limit
@options.as_json
def history(  # noqa: PLR0913  the options are the interface
    user_id: str,
    *,
    statuses: tuple[str, ...],
    charging_key_id: str | None,
    since: datetime | None,
    until: datetime | None,
    limit: int | None,
    as_json: bool,
) -> None:
    """Read the sessions of a user."""
    page = Page(limit, as_json)
    with drive_client() as client:
        found = client.history(
            user_id,
            statuses=statuses or ALL_STATUSES,
            charging_key_id=charging_key_id,
            started_from=since,
            started_until=until,
        )
        print_rows(DRIVE_SESSIONS, with_progress("sessions", found, page), page)


@drive.command()
@click.option("--fleet", "fleet_id", metavar="ID", help="Only those of this fleet. Default: all of the organization.")
@click.option(
    "--page-size", type=click.IntRange(MIN_PAGE_SIZE, MAX_PAGE_SIZE), default=MAX_PAGE_SIZE, show_default=True
)
@limit
@options.as_json
def keys(*, fleet_id: str | None, page_size: int, limit: int | None, as_json: bool) -> None:
    """List charging keys."""
    page = Page(limit, as_json)
    with drive_client() as client:
        found = client.charging_keys(fleet_id, page_size=page_size)
        print_rows(CHARGING_KEYS, with_progress("charging keys", found, page), page)


@drive.command()
@click.argument("user_id", metavar="USER")
@options.as_json
def balance(user_id: str, *, as_json: bool) -> None:
    """Read the prepaid balance of a user, from where DRIVE_BALANCE_PATH says."""
    with drive_client() as client:
        amount = str(client.balance(user_id))
    if as_json:
        json_line({"balance": amount})
    else:
        click.echo(amount)


@drive.command()
@click.argument("location_id", metavar="ID")
@options.as_json
def location(location_id: str, *, as_json: bool) -> None:
    """Read a location, with its operator's display name."""
    with drive_client() as client:
        found = client.location(location_id)
    fields: dict[str, str | None] = {"location_id": location_id, "operator_display_name": found.operator_display_name}
    if as_json:
        json_line({**fields, "document": jsonable(found.document)})
    else:
        key_values([("location", location_id), ("operator", found.operator_display_name)])


@drive.group()
def fleets() -> None:
    """Create and rename fleets, and invite drivers to them."""


@fleets.command()
@click.argument("fleet_id", metavar="FLEET")
@click.option("--name", metavar="NAME", help="Up to 100 characters.")
def create(fleet_id: str, *, name: str | None) -> None:
    """Create a fleet. Its id, up to 100 characters, can never be changed."""
    with drive_client() as client:
        client.create_fleet(fleet_id, name)
    _record(f"fleets create {fleet_id}")
    click.echo("The fleet is created.")


@fleets.command()
@click.argument("fleet_id", metavar="FLEET")
@click.argument("name")
def rename(fleet_id: str, name: str) -> None:
    """Rename a fleet."""
    with drive_client() as client:
        client.rename_fleet(fleet_id, name)
    _record(f"fleets rename {fleet_id}")
    click.echo("The fleet is renamed.")


@fleets.command()
@click.argument("fleet_id", metavar="FLEET")
def invitation(fleet_id: str) -> None:
    """Print the active invitation codes as unparsed JSON: their form is not documented."""
    with drive_client() as client:
        found = client.invitation(fleet_id)
    json_line({"fleet_id": fleet_id, "invitation": jsonable(found.document)})


@drive.group()
def token() -> None:
    """Push tokens to Roam OCPI at ROAM_OCPI_URL with ROAM_OCPI_TOKEN."""


@token.command()
@click.argument("uid")
@click.option("--country", "country_code", required=True, metavar="CC", help="Country of our party, such as DE.")
@click.option("--party", "party_id", required=True, metavar="ID", help="Id of our party, three characters.")
@click.option("--contract", "contract_id", required=True, metavar="ID", help="Contract of the token.")
@click.option("--issuer", required=True, metavar="NAME", help="Issuer of the token.")
@click.option("--visual-number", metavar="TEXT", help="Number printed on it.")
@click.option("--type", "kind", default="RFID", show_default=True, metavar="TYPE", help="RFID, APP_USER, OTHER, …")
@click.option(
    "--whitelist",
    type=click.Choice(Whitelist, case_sensitive=False),
    required=True,
    help="NEVER: each session must be authorized in real time.",
)
@click.option("--invalid", is_flag=True, help="Revoke the token.")
def push(*, kind: str, invalid: bool, **fields: str | Whitelist | None) -> None:
    """Create or update one token."""
    try:
        pushed = RoamToken.model_validate({**fields, "type": kind, "valid": not invalid})
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise UsageFailure(f"The token is not valid in OCPI: {first['loc'][0]}: {first['msg']}.") from None
    with drive_client() as client:
        client.push_token(pushed)
    _record("token push --invalid" if invalid else "token push")
    click.echo("The token is pushed.")


def _record(what: str) -> None:
    """Record a change that was made at the other side, without the person that it is about."""
    record_aside(settings_with_dev_defaults(), audit_entry(AuditAct.DRIVE_CHANGED, f"drive {what}"))


@contextmanager
def drive_client() -> Iterator[DriveClient]:
    """Open a client whose rate limit is shared with all processes, if there is a Redis."""
    settings = settings_with_dev_defaults()
    redis = connect_redis(settings.redis_url, timeout=REDIS_TIMEOUT) if settings.redis_url else nullcontext()
    try:
        with logs_to_stderr(settings, "drive"), redis as connection, DriveClient(settings, connection) as client:
            yield client
    except ValueError as error:  # a name that is too long
        raise UsageFailure(str(error)) from None


def with_progress(things: str, found: Iterable[T], page: Page) -> Iterator[T]:
    """Yield one page, with a counter on stderr if that is a terminal and the list is not printed there as well."""
    screen = Console(stderr=True)
    is_quiet = not screen.is_terminal or (page.as_json and sys.stdout.isatty())
    columns = (SpinnerColumn(), TextColumn("{task.completed:,.0f} {task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=screen, transient=True, disable=is_quiet) as progress:
        task = progress.add_task(things, total=None)
        for each in islice(found, page.limit):
            progress.advance(task)
            yield each
