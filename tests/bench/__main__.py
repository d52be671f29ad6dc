"""The benches: `webhooks bench` in a clone, or `python -m tests.bench`. Each prints a table with its baselines."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from tests.bench.databases import postgresql
from tests.bench.harness import isolated_environment
from tests.bench.report import Report
from workers.commands.options import as_json
from workers.commands.output import json_line, table

database_option = click.option(
    "--database", metavar="URL", help="A PostgreSQL server to measure on; new databases are made there and dropped."
)


def runs_option(default: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return the option that sets how often everything is measured."""
    return click.option(
        "--runs", default=default, show_default=True, type=click.IntRange(min=1), help="Runs of each target."
    )


def seconds_option(default: float) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return the option that sets how long a load lasts."""
    return click.option(
        "--seconds", default=default, show_default=True, type=click.FloatRange(min=0.2), help="How long a load lasts."
    )


@click.group()
def bench() -> None:
    """Measure speed side by side with baselines.

    Everything runs on this machine: a bench starts what it needs on free ports in a temporary folder, and ends it
    again. Targets take turns run by run, so that a machine that slows down slows all of them down. PostgreSQL is
    measured too if --database names one or the extra `test` is installed, which embeds one.
    """


@bench.command()
@runs_option(5)
@seconds_option(5.0)
@as_json
def accept(runs: int, seconds: float, *, as_json: bool) -> None:
    """Measure how fast `serve` takes events.

    Signed POSTs over 64 kept-alive connections to an empty Starlette endpoint, to the usual recipe (verify, then
    `queue.enqueue` in the thread pool; its Valkey syncs before it answers) and to `webhooks serve`, also over 256.
    """
    from tests.bench.accept import accept as measure  # noqa: PLC0415 - `--help` must not wait for it

    with progress() as bar:
        report = measure(runs, seconds, bar)
    print_reports([report], as_json=as_json)


@bench.command()
@runs_option(5)
@click.option("--events", default=20_000, show_default=True, type=click.IntRange(min=1), help="Events in our inbox.")
@click.option(
    "--rival-events", default=200, show_default=True, type=click.IntRange(min=2), help="Jobs of the baseline."
)
@click.option(
    "--rivals",
    "with_rivals",
    is_flag=True,
    help="Also measure pgqueuer, dramatiq and Celery on PostgreSQL; they are installed for that.",
)
@click.option(
    "--backlog", "waiting", type=click.IntRange(min=10_000), help="Only what an event costs while so many wait."
)
@database_option
@as_json
def work(  # noqa: PLR0913 - one for each option
    runs: int,
    events: int,
    rival_events: int,
    waiting: int | None,
    database: str | None,
    *,
    with_rivals: bool,
    as_json: bool,
) -> None:
    """Measure how fast a full inbox is settled.

    `webhooks work` and the relay, against a stock `rq worker` that has everything imported and does the same work in
    the same tables, one job an event, each in a child process of its own.
    """
    from tests.bench.backlog import backlog  # noqa: PLC0415 - as above
    from tests.bench.rivals import rivals  # noqa: PLC0415 - as above
    from tests.bench.work import work as measure  # noqa: PLC0415 - as above

    with progress() as bar, postgresql(database) as server:
        reports = [backlog(waiting, server, bar) if waiting else measure(runs, events, rival_events, server, bar)]
        if with_rivals and server:
            reports.append(rivals(runs, events, server, bar))
    print_reports(reports, as_json=as_json)


@bench.command()
@runs_option(5)
@seconds_option(20.0)
@click.option("--rate", default=3000.0, show_default=True, type=click.FloatRange(min=1), help="Events a second.")
@click.option("--singles", default=20, show_default=True, type=click.IntRange(min=1), help="Single events.")
@click.option("--memory", "with_memory", is_flag=True, help="Also measure memory over 100,000 events.")
@database_option
@as_json
def through(  # noqa: PLR0913 - one for each option
    runs: int, seconds: float, rate: float, singles: int, *, with_memory: bool, database: str | None, as_json: bool
) -> None:
    """Measure how much goes from POST to settled, everything on this machine.

    Single events while all is idle; then a steady rate, at which the inbox must not grow; then a flood over 64
    connections, and how long it takes until all of it is settled.
    """
    from tests.bench.end_to_end import EndToEndScale  # noqa: PLC0415 - as above
    from tests.bench.end_to_end import through as measure  # noqa: PLC0415 - as above
    from tests.bench.memory import memory  # noqa: PLC0415 - as above

    with progress() as bar, postgresql(database) as server:
        reports = [measure(EndToEndScale(runs, seconds, rate, singles), server, bar)]
        if with_memory:
            reports.append(memory(rate, bar))
    print_reports(reports, as_json=as_json)


@bench.command()
@runs_option(1)
@click.option("--events", default=100_000, show_default=True, type=click.IntRange(min=1), help="Events that wait.")
@click.option("--warnings", default=200, show_default=True, type=click.IntRange(min=1), help="Warnings behind them.")
@click.option("--channel", type=click.Choice(["http", "fcm", "plugin"]), default="http", show_default=True)
@database_option
@as_json
def warn(  # noqa: PLR0913 - the options are the interface
    runs: int, events: int, warnings: int, channel: str, database: str | None, *, as_json: bool
) -> None:
    """Measure how soon a driver is warned, whatever else happens.

    Fee warnings of known sessions arrive one by one, while nothing else happens, while the pushes of 30 % of the
    drivers fail, and behind a backlog of session events; and ten times as many at once, alone and with all of that.
    Then beside a handler that takes 25 s, and beside a replay. The time is taken from receipt to the push.
    """
    from tests.bench.push_latency import warn as measure  # noqa: PLC0415 - as above

    with progress() as bar, postgresql(database) as server:
        report = measure(runs, events, warnings, server, bar, channel=channel)
    print_reports([report], as_json=as_json)


@bench.command()
@click.option(
    "--deliveries", default=1_000_000, show_default=True, type=click.IntRange(min=1_000), help="In the ledger."
)
@click.option("--requests", default=40, show_default=True, type=click.IntRange(min=2), help="For each page.")
@database_option
@as_json
def pages(deliveries: int, requests: int, database: str | None, *, as_json: bool) -> None:
    """Measure how long the pages of the console, and the lists of the commands, take over a large ledger.

    A ledger is filled with 30 days of charging; then every page is asked for, and every list newest first, its next
    pages, and by each of its filters: at the application, and over HTTP while the first page is open in a browser.
    """
    from tests.bench.large_ledger import LargeLedger  # noqa: PLC0415 - as above
    from tests.bench.pages import PagesScale  # noqa: PLC0415 - as above
    from tests.bench.pages import pages as measure  # noqa: PLC0415 - as above

    with progress() as bar, postgresql(database) as server:
        reports = measure(PagesScale(LargeLedger(deliveries), requests), server, bar)
    print_reports(reports, as_json=as_json)


@bench.command()
@click.option(
    "--deliveries", default=1_000_000, show_default=True, type=click.IntRange(min=1_000), help="In all months."
)
@click.option("--months", default=12, show_default=True, type=click.IntRange(min=1), help="How many months pass.")
@click.option("--bodies", default=30, show_default=True, help="Days that bodies, pushes and decisions are kept.")
@click.option("--rows", default=180, show_default=True, help="Days that all else is kept.")
@click.option(
    "--settle-every", default=1, show_default=True, help="Months after which the speed of settling is measured."
)
@click.option("--on", "kind", type=click.Choice(["SQLite", "PostgreSQL"]), help="Only on this database.")
@database_option
@as_json
def year(  # noqa: PLR0913, PLR0917 - one for each option
    deliveries: int,
    months: int,
    bodies: int,
    rows: int,
    settle_every: int,
    kind: str | None,
    database: str | None,
    *,
    as_json: bool,
) -> None:
    """Let months pass over a ledger with retention on.

    The mass of each month is copied within the database, a sample of it goes from POST to settled. Then what is too old
    is deleted, and sizes, lists, a session, `check --deep` and the speed of settling are measured, also while
    something is deleted. Says what grows in the last quarter.
    """
    from tests.bench.year import YearScale  # noqa: PLC0415 - as above
    from tests.bench.year import year as measure  # noqa: PLC0415 - as above

    with progress() as bar, postgresql(database) as server:
        scale = YearScale(deliveries, months, bodies, rows, settle_every)
        reports = measure(scale, server, bar, [kind] if kind else None)
    print_reports(reports, as_json=as_json)


@contextmanager
def progress() -> Iterator[Progress]:
    """Hide this shell's settings and yield a progress bar on stderr."""
    columns = TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()
    with isolated_environment(), Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        yield bar


def print_reports(reports: list[Report], *, as_json: bool) -> None:
    """Print reports as tables with their captions and remarks, or as one JSON object a row."""
    for report in reports:
        if as_json:
            for row in report.rows:
                json_line({"bench": report.title, "row": row.name, "samples": row.samples, "remarks": row.remarks})
            continue
        click.echo(f"\n{report.title}\n")
        headings = ["", *(column.title for column in report.columns)]
        table(headings, [[row.name, *(column.cell(row) for column in report.columns)] for row in report.rows])
        click.echo(f"\n{report.caption}")
        for row in report.rows:
            for what, count in sorted(row.remarks.items()):
                click.echo(f"{row.name}: {count} × {what}")


if __name__ == "__main__":
    bench(prog_name="webhooks bench")
