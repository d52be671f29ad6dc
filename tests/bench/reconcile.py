"""Do session records become true although events are dropped, by what the Drive API knows?

`python -m tests.bench.reconcile --help`
"""

import json
from dataclasses import dataclass

import click
from rich.progress import Progress

from tests.bench.__main__ import database_option, print_reports, progress
from tests.bench.databases import harness_on, kinds_on, postgresql
from tests.bench.harness import HOST, Harness, wait_for_http
from tests.bench.report import Column, Report, Row
from tests.ports import reserve_neighbours
from workers.commands.errors import Failure
from workers.commands.options import as_json

# Minutes become seconds; the calls stay below the rate limit of the simulated Drive API.
HURRY = {
    "RECONCILE_AFTER": "2s",
    "RECONCILE_LONGEST": "10s",
    "RECONCILE_PER_MINUTE": "2000",
    "HISTORY_EVERY": "15s",
    "HISTORY_SPAN": "1d",
    "REDIS_URL": "",
}
PORTS = 6
"""How many ports `dev` takes, one after the other."""

COLUMNS = (
    Column("sessions", "sessions"),
    Column("equal", "equal"),
    Column("of them healed", "healed"),
    Column("differ", "differ"),
    Column("unknown", "unknown"),
    Column("events sent", "sent"),
    Column("s after the last event", "seconds"),
)


@dataclass(frozen=True)
class ReconcileScale:
    """How many sessions are played, which share of their events is dropped, and what fails at the Drive API."""

    sessions: int
    users: int
    share: float
    seed: int
    drive_faults: str
    patience_s: float


@click.command()
@click.option("--count", default=1000, show_default=True, type=click.IntRange(min=1), help="Sessions.")
@click.option("--users", default=100, show_default=True, type=click.IntRange(min=1), help="Drivers of the sessions.")
@click.option("--share", default=0.33, show_default=True, type=click.FloatRange(0, 1), help="Share of events dropped.")
@click.option("--seed", default=7, show_default=True, type=int, help="Draws both.")
@click.option("--drive-fault", "faults", default="", metavar="NAMES", help="As in `drive simulate --fault`.")
@click.option("--patience", default=300.0, show_default=True, type=click.FloatRange(min=1), help="Seconds at most.")
@database_option
@as_json
def main(  # noqa: PLR0913 - one for each option
    *,
    count: int,
    users: int,
    share: float,
    seed: int,
    faults: str,
    patience: float,
    database: str | None,
    as_json: bool,
) -> None:
    """Play sessions to `webhooks dev`, drop events, and compare every record with the simulated Drive API.

    Exit code 0 only if all records are equal.
    """
    with progress() as bar, postgresql(database) as server:
        report = measure(ReconcileScale(count, users, share, seed, faults, patience), server, bar)
    print_reports([report], as_json=as_json)
    if any(row.samples["equal"] != row.samples["sessions"] for row in report.rows):
        raise Failure("Not all sessions are as they really were.")


def measure(scale: ReconcileScale, server: str | None, bar: Progress) -> Report:
    """Measure with each database."""
    rows = [Row(kind) for kind in kinds_on(server)]
    task = bar.add_task("reconcile", total=len(rows))
    for row in rows:
        with harness_on(row.name, server) as harness:
            row.add(**_measured(harness, scale))
        bar.advance(task)
    return Report(
        f"reconcile: {scale.sessions} sessions of {scale.users} drivers, {scale.share:.0%} of their events dropped",
        COLUMNS,
        rows,
        "driver, status, start, stop and completion of every session, compared with what the simulator knows",
    )


def _measured(harness: Harness, scale: ReconcileScale) -> dict[str, float]:
    def webhooks(*arguments: str) -> str:
        return harness.webhooks(*arguments, **HURRY).finish(scale.patience_s + 60)

    port = reserve_neighbours(PORTS)
    dev = harness.webhooks("dev", "--port", str(port), **HURRY)
    wait_for_http(dev, f"http://{HOST}:{port}/readyz", patience_s=scale.patience_s)
    wait_for_http(dev, f"http://{HOST}:{port + PORTS - 1}/simulator/calls", patience_s=scale.patience_s)
    if scale.drive_faults:
        webhooks("drive", "spoil", scale.drive_faults)
    drawn = ("--count", str(scale.sessions), "--users", str(scale.users), "--seed", str(scale.seed))
    sent = webhooks("send", "session", *drawn, "--fault", "drop", "--share", str(scale.share))
    compared = webhooks("drive", "compare", "--wait", f"{scale.patience_s:g}s", "--json", "--always")
    # Both `drive` commands share one file of output; the comparison is its last line.
    found = json.loads(compared.splitlines()[-1])
    total = next(line for line in sent.splitlines() if " sent: " in line)
    return {**{name: float(count) for name, count in found.items()}, "sent": float(total.partition(" ")[0])}


if __name__ == "__main__":
    main()
