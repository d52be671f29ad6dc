"""Commands below `webhooks drive` for the simulated Drive API: run it alone, and compare the ledger with it."""

import time
from datetime import timedelta

import click

from ingest.config.durations import parse_duration
from ingest.config.settings import Settings, load_settings
from ingest.simulator.drive.control import fetch_sessions, set_faults
from ingest.simulator.drive.faults import DriveFault, DriveFaults, UnknownFault, read_rates
from workers.commands import options
from workers.commands.errors import Failure, UsageFailure
from workers.commands.output import json_line, printable
from workers.commands.stores import read_only_ledger
from workers.dev.drive_simulator import simulate, simulated_url
from workers.dev.env_file import settings_with_dev_defaults
from workers.dev.simulator_diff import Comparison, compare
from workers.ledger import sessions

SHOWN = 10
LOOK_EVERY = timedelta(seconds=1)


class Length(click.ParamType[timedelta]):
    """A span of time: `90s`, `5m`."""

    name = "span"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        """Read it as settings do."""
        try:
            return parse_duration(value)
        except ValueError as error:
            self.fail(f"{value!r} {error}.", param, ctx)


@click.command("simulate")
@click.option("--port", type=click.IntRange(1, 65_535), help="Where.  [default: that of DRIVE_API_URL, else 8005]")
@click.option("--seed", type=int, default=0, show_default=True, help="Draws keys, fleets, balances and faults.")
@click.option(
    "--fault",
    "faults",
    default="",
    metavar="NAMES",
    help=f"What goes wrong, by comma, each with its rate: {', '.join(DriveFault)}, as in 500:0.1,slow.",
)
def simulate_drive(*, port: int | None, seed: int, faults: str) -> None:
    """Play the Drive API and Roam OCPI on this machine, as `webhooks dev` does where DRIVE_API_KEY is not set.

    It knows the sessions that `webhooks send` tells of, also those whose events are dropped. `webhooks drive spoil`
    changes its faults while it runs.
    """
    try:
        rates = read_rates(faults)
    except UnknownFault as unknown:
        raise UsageFailure(str(unknown)) from None
    simulate(load_settings(), port=port, seed=seed, faults=DriveFaults(rates, seed))


@click.command("spoil")
@click.argument("faults", default="")
@click.option("--drive", "url", metavar="URL", help="The simulated Drive API.  [default: the one of `webhooks dev`]")
def set_drive_faults(faults: str, url: str | None) -> None:
    """Let things go wrong with the simulated Drive API, as in 500:0.1,slow; without FAULTS nothing does any more."""
    try:
        read_rates(faults)
    except UnknownFault as unknown:
        raise UsageFailure(str(unknown)) from None
    set_faults(place_of(settings_with_dev_defaults(), url), faults)


@click.command("compare")
@click.option("--drive", "url", metavar="URL", help="The simulated Drive API.  [default: the one of `webhooks dev`]")
@click.option("--wait", type=Length(), default="0", metavar="SPAN", help="Wait for as long until all are equal.")
@click.option("--always", is_flag=True, help="Exit with 0 whatever is found.")
@options.as_json
def compare_with_simulator(*, url: str | None, wait: timedelta, always: bool, as_json: bool) -> None:
    """Compare every session of the ledger with what really happened, as the simulated Drive API knows it.

    User, status, start, stop and completion must be equal, to the microsecond. The exit code is 0 only if all are.
    """
    settings = settings_with_dev_defaults()
    url = place_of(settings, url)
    began = time.monotonic()
    while True:
        found = compared(settings, url)
        took = time.monotonic() - began
        if not found.differences or took > wait.total_seconds():
            break
        time.sleep(LOOK_EVERY.total_seconds())
    show(found, took if wait else None, as_json=as_json)
    if found.differences and not always:
        raise Failure(f"{len(found.differences)} of {found.sessions} sessions are not as they really were.")


def place_of(settings: Settings, url: str | None) -> str:
    """Find the simulated Drive API."""
    url = url or simulated_url(settings)
    if url is None:
        raise UsageFailure("No `webhooks dev` with a simulated Drive API runs here; --drive names another one.")
    return url


def compared(settings: Settings, url: str) -> Comparison:
    """Compare once."""
    truths = fetch_sessions(url)
    with read_only_ledger(settings) as ledger:
        return compare(truths, sessions.fetch(ledger, [truth.session_id for truth in truths]))


def show(found: Comparison, seconds: float | None, *, as_json: bool) -> None:
    """Print what a comparison has found."""
    if as_json:
        json_line(
            {
                "sessions": found.sessions,
                "equal": found.equal,
                "healed": found.healed,
                "differ": len(found.differences) - found.unknown,
                "unknown": found.unknown,
                "seconds": None if seconds is None else round(seconds, 1),
            }
        )
        return
    for each in found.differences[:SHOWN]:
        what = "is not known" if each.is_unknown else f"differs in {', '.join(each.fields)}"
        click.echo(f"{printable(each.session_id)} {what}")
    after = "" if seconds is None else f" · after {seconds:.0f} s"
    click.echo(
        f"{found.sessions} sessions: {found.equal} equal ({found.healed} of them thanks to the Drive API), "
        f"{len(found.differences) - found.unknown} differ, {found.unknown} unknown{after}"
    )
