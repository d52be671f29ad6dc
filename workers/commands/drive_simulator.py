"""Commands `webhooks drive simulate | spoil | compare`: run the simulated Drive API, break it, compare with it."""

import time
from collections.abc import Mapping
from datetime import timedelta

import click

from ingest.config.durations import parse_duration
from ingest.config.settings import Settings, load_settings
from ingest.simulator.drive.drive_faults import DriveFault, DriveFaults, parse_rates
from workers.commands import options
from workers.commands.errors import Failure, UsageFailure
from workers.commands.output import json_line
from workers.commands.stores import read_only_ledger
from workers.dev.drive_simulator import fetch_sessions, set_faults, simulate, simulated_url
from workers.dev.env_file import settings_with_dev_defaults
from workers.dev.simulator_diff import Comparison, compare
from workers.ledger import sessions
from workers.lists.formatting import printable

MAX_DIFFERENCES = 10
COMPARE_EVERY = timedelta(seconds=1)

drive_url = click.option(
    "--drive", "url", metavar="URL", help="The simulated Drive API.  [default: the one of `webhooks dev`]"
)


FAULTS = options.Parsed("faults", parse_rates)


@click.command("simulate")
@click.option("--port", type=click.IntRange(1, 65_535), help="Port.  [default: that of DRIVE_API_URL, else 8005]")
@click.option("--seed", type=int, default=0, show_default=True, help="Draws keys, fleets, balances and faults.")
@click.option(
    "--fault",
    "faults",
    type=FAULTS,
    default="",
    metavar="NAMES",
    help=f"Faults by comma, each with its rate: {', '.join(DriveFault)}, as in 500:0.1,slow.",
)
def simulate_drive(*, port: int | None, seed: int, faults: Mapping[DriveFault, float]) -> None:
    """Simulate the Drive API and Roam OCPI on this machine, as `webhooks dev` does where DRIVE_API_KEY is not set.

    It knows the sessions of the events that `webhooks send` sends or drops. `webhooks drive spoil` changes its faults
    while it runs.
    """
    simulate(load_settings(), port=port, seed=seed, faults=DriveFaults(faults, seed))


@click.command("spoil")
@click.argument("faults", type=FAULTS, default="")
@drive_url
def set_drive_faults(faults: Mapping[DriveFault, float], url: str | None) -> None:
    """Set the faults of the simulated Drive API, as in 500:0.1,slow; without FAULTS there are none."""
    text = ",".join(f"{fault}:{rate}" for fault, rate in faults.items())
    set_faults(_find_simulator(settings_with_dev_defaults(), url), text)


@click.command("compare")
@drive_url
@click.option(
    "--wait",
    type=options.Parsed("span", parse_duration),
    default="0",
    metavar="SPAN",
    help="Wait so long until all are equal.",
)
@click.option("--always", is_flag=True, help="Exit with 0 whatever is found.")
@options.as_json
def compare_with_simulator(*, url: str | None, wait: timedelta, always: bool, as_json: bool) -> None:
    """Compare every session of the ledger with what really happened, as the simulated Drive API knows it.

    User, status, start, stop and completion must be equal, to the microsecond. The exit code is 0 only if all are.
    """
    settings = settings_with_dev_defaults()
    url = _find_simulator(settings, url)
    began = time.monotonic()
    while True:
        expected = fetch_sessions(url)
        with read_only_ledger(settings) as ledger:
            found = compare(expected, sessions.fetch(ledger, [session.session_id for session in expected]))
        took = time.monotonic() - began
        if not found.differences or took > wait.total_seconds():
            break
        time.sleep(COMPARE_EVERY.total_seconds())
    _print_comparison(found, took if wait else None, as_json=as_json)
    if found.differences and not always:
        raise Failure(f"{len(found.differences)} of {found.sessions} sessions are not as they really were.")


def _find_simulator(settings: Settings, url: str | None) -> str:
    url = url or simulated_url(settings)
    if url is None:
        raise UsageFailure("No `webhooks dev` with a simulated Drive API runs here; --drive names another one.")
    return url


def _print_comparison(found: Comparison, seconds: float | None, *, as_json: bool) -> None:
    differ = len(found.differences) - found.unknown
    if as_json:
        took = None if seconds is None else round(seconds, 1)
        counts = {"sessions": found.sessions, "equal": found.equal, "healed": found.healed, "differ": differ}
        json_line({**counts, "unknown": found.unknown, "seconds": took})
        return
    for session_id, fields in list(found.differences.items())[:MAX_DIFFERENCES]:
        difference = f"differs in {', '.join(fields)}" if fields else "is not known"
        click.echo(f"{printable(session_id)} {difference}")
    after = "" if seconds is None else f" · after {seconds:.0f} s"
    click.echo(
        f"{found.sessions} sessions: {found.equal} equal ({found.healed} of them thanks to the Drive API), "
        f"{differ} differ, {found.unknown} unknown{after}"
    )
