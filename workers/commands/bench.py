"""The command `bench`: measure this house side by side with its rivals, and print a table."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from workers.bench.databases import postgresql
from workers.bench.harness import isolated_environment
from workers.bench.report import Report
from workers.commands.errors import Failure
from workers.commands.options import as_json
from workers.commands.output import json_line, table

runs_option = click.option("--runs", default=5, show_default=True, type=click.IntRange(min=1), help="Runs of each.")
database_option = click.option(
    "--database", metavar="URL", help="A PostgreSQL to measure on; new databases are made there and dropped."
)


def seconds_option(default: float) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make the option that says how long a load lasts."""
    return click.option(
        "--seconds", default=default, show_default=True, type=click.FloatRange(min=0.2), help="How long a load lasts."
    )


@click.group()
def bench() -> None:
    """Measure speed side by side with its rivals.

    Everything runs on this machine: the bench starts what it needs on free ports in a temporary folder, and ends it
    again. Rivals take turns with us run by run, so that a machine that slows down slows all of them down. PostgreSQL is
    measured too if --database names one or the extra `test` is installed, which embeds one.
    """


@bench.command()
@runs_option
@seconds_option(5.0)
@as_json
def accept(runs: int, seconds: float, *, as_json: bool) -> None:
    """How fast the door takes events.

    Signed POSTs over 64 kept-alive connections to an empty Starlette endpoint, to the usual recipe (verify, then
    `queue.enqueue` in the thread pool; its Valkey syncs before it answers) and to `webhooks serve`.
    """
    from workers.bench.accept import accept as measure  # noqa: PLC0415 - `--help` shall not wait for it

    with _progress() as progress:
        report = measure(runs, seconds, progress)
    _print([report], as_json=as_json)


@bench.command()
@runs_option
@click.option("--events", default=20_000, show_default=True, type=click.IntRange(min=1), help="In our inbox.")
@click.option("--rival-events", default=200, show_default=True, type=click.IntRange(min=2), help="Jobs of the rival.")
@database_option
@as_json
def work(runs: int, events: int, rival_events: int, database: str | None, *, as_json: bool) -> None:
    """How fast a full inbox is settled.

    `webhooks work` and the relay, against a stock `rq worker` that has everything imported and does the same work in
    the same tables, one job an event. Both fork a child for every job.
    """
    from workers.bench.work import work as measure  # noqa: PLC0415 - as above

    with _progress() as progress, postgresql(database) as server:
        report = measure(runs, events, rival_events, server, progress)
    _print([report], as_json=as_json)


@bench.command()
@runs_option
@seconds_option(20.0)
@click.option("--rate", default=3000.0, show_default=True, type=click.FloatRange(min=1), help="Events a second.")
@click.option("--singles", default=20, show_default=True, type=click.IntRange(min=1), help="Single events.")
@click.option("--memory", "with_memory", is_flag=True, help="Also watch memory over 100,000 events.")
@database_option
@as_json
def through(  # noqa: PLR0913 - one for each option
    runs: int, seconds: float, rate: float, singles: int, *, with_memory: bool, database: str | None, as_json: bool
) -> None:
    """How much goes from POST to settled, everything on this machine.

    Single events while all is idle; then a steady rate, at which the inbox must not grow; then a flood over 64
    connections, and how long it takes until all of it is settled.
    """
    from workers.bench.end_to_end import Extent  # noqa: PLC0415 - as above
    from workers.bench.end_to_end import through as measure  # noqa: PLC0415 - as above
    from workers.bench.memory import memory  # noqa: PLC0415 - as above

    with _progress() as progress, postgresql(database) as server:
        reports = [measure(Extent(runs, seconds, rate, singles), server, progress)]
        if with_memory:
            reports.append(memory(rate, progress))
    _print(reports, as_json=as_json)


@bench.command()
@click.option("--count", default=1000, show_default=True, type=click.IntRange(min=1), help="Sessions.")
@click.option("--users", default=100, show_default=True, type=click.IntRange(min=1), help="Whose they are.")
@click.option("--share", default=0.33, show_default=True, type=click.FloatRange(0, 1), help="Of the events is dropped.")
@click.option("--seed", default=7, show_default=True, type=int, help="Draws both.")
@click.option("--drive-fault", "faults", default="", metavar="NAMES", help="As in `drive simulate --fault`.")
@click.option("--patience", default=300.0, show_default=True, type=click.FloatRange(min=1), help="Seconds at most.")
@database_option
@as_json
def heal(  # noqa: PLR0913 - one for each option
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
    """Whether records become true although events are dropped.

    `webhooks dev` is told of sessions, and its simulated Drive API knows what really happens in them. Then every record
    must equal that truth. The exit code is 0 only if all do.
    """
    from workers.bench.heal import Extent  # noqa: PLC0415 - as above
    from workers.bench.heal import heal as measure  # noqa: PLC0415 - as above

    with _progress() as progress, postgresql(database) as server:
        report = measure(Extent(count, users, share, seed, faults, patience), server, progress)
    _print([report], as_json=as_json)
    if any(row.samples["equal"] != row.samples["sessions"] for row in report.rows):
        raise Failure("Not all sessions are as they really were.")


@bench.command()
@click.option("--runs", default=1, show_default=True, type=click.IntRange(min=1), help="Runs of each.")
@click.option("--events", default=100_000, show_default=True, type=click.IntRange(min=1), help="That wait.")
@click.option("--warnings", default=200, show_default=True, type=click.IntRange(min=1), help="That come meanwhile.")
@database_option
@as_json
def warn(runs: int, events: int, warnings: int, database: str | None, *, as_json: bool) -> None:
    """How soon a driver is warned, whatever else waits.

    Fee warnings of sessions that are known come in one by one while the door and a worker have a backlog of session
    events; the time is taken from receipt to the push.
    """
    from workers.bench.push_latency import warn as measure  # noqa: PLC0415 - as above

    with _progress() as progress, postgresql(database) as server:
        report = measure(runs, events, warnings, server, progress)
    _print([report], as_json=as_json)


@bench.command()
@click.option("--runs", default=1, show_default=True, type=click.IntRange(min=1), help="Runs of each.")
@seconds_option(20.0)
@click.option("--rate", default=50.0, show_default=True, type=click.FloatRange(min=1), help="Questions a second.")
@click.option(
    "--only", type=click.Choice(["idle", "half", "full", "hanging"]), multiple=True, help="One of the situations."
)
@database_option
@as_json
def authorize(  # noqa: PLR0913 - one for each option
    runs: int, seconds: float, rate: float, only: tuple[str, ...], database: str | None, *, as_json: bool
) -> None:
    """How soon a driver at a charger is answered, whatever else goes on.

    The built-in policies are asked while nothing else happens, while the door takes half of what it can and 200
    connections to it and 200 to `authorize` send a byte a second, and while the door is saturated and a worker drains
    it. At last a policy hangs: no answer may come after the deadline, or be another than AUTHORIZE_ON_FAILURE.
    """
    from workers.bench.authorize import Scale, Scenario  # noqa: PLC0415 - as above
    from workers.bench.authorize import authorize as measure  # noqa: PLC0415 - as above

    situations = [each for each in Scenario if not only or each in only]
    with _progress() as progress, postgresql(database) as server:
        report = measure(Scale(situations, runs, seconds, rate), server, progress)
    _print([report], as_json=as_json)


@bench.command()
@click.option("--count", default=100_000, show_default=True, type=click.IntRange(min=100), help="CDRs.")
@click.option("--repeated", default=5.0, show_default=True, type=click.FloatRange(0, 100), help="Percent sent again.")
@click.option(
    "--in-conflict", default=1.0, show_default=True, type=click.FloatRange(0, 100), help="Percent contradicted later."
)
@click.option("--seed", default=1, show_default=True, help="The same seed makes the same CDRs.")
@database_option
@as_json
def cdrs(  # noqa: PLR0913 - one for each option
    count: int, repeated: float, in_conflict: float, seed: int, database: str | None, *, as_json: bool
) -> None:
    """Whether every CDR is counted once and added up to its last digit.

    CDRs are sent over 64 connections in any order, some of them again, some contradicted by others with their request
    id. Then `webhooks cdrs` is asked; what it counts, adds up and lists must be what was sent, or the exit code is 1.
    """
    from workers.bench.cdrs import Extent  # noqa: PLC0415 - as above
    from workers.bench.cdrs import cdrs as measure  # noqa: PLC0415 - as above

    with _progress() as progress, postgresql(database) as server:
        report = measure(Extent(count, repeated / 100, in_conflict / 100, seed), server, progress)
    _print([report], as_json=as_json)


@contextmanager
def _progress() -> Iterator[Progress]:
    columns = TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()
    with isolated_environment(), Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        yield progress


def _print(reports: list[Report], *, as_json: bool) -> None:
    for report in reports:
        if as_json:
            for row in report.rows:
                json_line({"bench": report.title, "row": row.name, "samples": row.samples, "remarks": row.remarks})
        else:
            _show(report)


def _show(report: Report) -> None:
    click.echo(f"\n{report.title}\n")
    headings = ["", *(column.title for column in report.columns)]
    table(headings, [[row.name, *(column.cell(row) for column in report.columns)] for row in report.rows])
    click.echo(f"\n{report.caption}")
    for row in report.rows:
        for what, count in sorted(row.remarks.items()):
            click.echo(f"{row.name}: {count} × {what}")
