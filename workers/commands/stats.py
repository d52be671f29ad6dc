"""`webhooks stats`: what happened in a span, in numbers."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime

import click

from workers.commands import options
from workers.commands.output import json_line, table
from workers.commands.stores import read_only_ledger
from workers.dev.env_file import settings_with_dev_defaults
from workers.ledger.stats_queries import SpanStats, read_stats
from workers.lists.formatting import Cell, clock_name, local
from workers.lists.push_list import warnings_in_words
from workers.lists.stats_document import stats_json
from workers.lists.time_parsing import parse_time


@click.command()
@options.since_option(help="From then on: 10m, 2h or 3d ago, today, yesterday, 18:00, ISO 8601. Default: today.")
@options.until_option(help="Until then. Default: now.")
@options.as_json
def stats(*, since: datetime | None, until: datetime | None, as_json: bool) -> None:
    """Count what happened in a span: events, deliveries, warnings, pushes, authorizations, runs; how long it took.

    Runs count when they ended, open ones when their delivery came. Deliveries that no worker has taken yet are not
    counted. Latencies are of the latest 1,000.
    """
    since, now = since or parse_time("today"), datetime.now(UTC)
    if since >= (until or now):
        raise click.UsageError("--since must be before --until." if until else "--since is in the future.")
    until = until or now
    with read_only_ledger(settings_with_dev_defaults()) as conn:
        found = read_stats(conn, since, until)
    if as_json:
        json_line(stats_json(found))
        return
    click.echo(f"From {local(since)} to {local(until)} ({clock_name()}):\n")
    table(["", "", ""], list(_rows(found)), wrapping=0)


def _rows(stats: SpanStats) -> Iterator[tuple[Cell, Cell, Cell]]:
    yield from _counts("events", stats.events)
    yield from _counts("deliveries", stats.deliveries)
    warnings = warnings_in_words(stats.warnings)
    yield from _counts("fee warnings", warnings)
    for channel, counts in stats.pushes.items():
        yield from _counts(f"pushes, {channel}", counts)
    yield from _counts("authorizations", stats.authorizations)
    for handler, counts in stats.runs.items():
        yield from _counts(f"runs, {handler}", counts)
    for name, latency in stats.latency.items():
        if latency.count:
            yield name.replace("_", " "), "p50", latency.p50
            yield "", "p99", latency.p99


def _counts(title: str, counts: Mapping[str, int]) -> Iterator[tuple[Cell, Cell, Cell]]:
    for number, (name, count) in enumerate(counts.items()):
        yield title if number == 0 else "", name, f"{count:,}"
