"""`webhooks top`: the first page of the console in a terminal, live."""

import time
from collections.abc import Iterator, Mapping, Sequence

import click
from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text
from sqlalchemy.exc import SQLAlchemyError

from ingest.errors import WebhooksError
from workers.alerts.alerts import AlertRow, find_alerts
from workers.commands.check.processes import check_now
from workers.commands.output import console
from workers.commands.stores import open_ledger
from workers.console.overview import Overview, OverviewReader
from workers.console.page_stores import Opener
from workers.dev.env_file import settings_with_dev_defaults
from workers.lists.formatting import STYLES, clock_name, human_duration, local, printable
from workers.lists.push_list import warnings_in_words

EVERY = 2.0
BARS = "▁▂▃▄▅▆▇█"
SHOWN_ALERTS = 10


@click.command()
@click.option("--once", is_flag=True, help="Print it once, and end; so it does where the output is no terminal.")
def top(*, once: bool) -> None:
    """Show how everything stands: health, queues, today's numbers and open alerts, until Ctrl-C."""
    settings = settings_with_dev_defaults()
    with open_ledger(settings) as engine:
        stores = Opener(settings, engine)
        reader = OverviewReader(stores, check_now)
        screen = console()
        if once or not screen.is_terminal:
            screen.print(render(reader.read(), _open_alerts(stores)))
            return
        with Live(console=screen, screen=True, auto_refresh=False) as live:
            while True:
                live.update(render(reader.read(), _open_alerts(stores)), refresh=True)
                time.sleep(EVERY)


def render(overview: Overview, alerts: list[AlertRow]) -> Group:
    """Render the overview and the open alerts, with nothing in them that a terminal would interpret."""
    heading = Text(f"{local(overview.at)} ({clock_name()})", style="bold")
    health = Table.grid(padding=(0, 2, 0, 0))
    for line in overview.lines:
        since = f"seen since {local(line.since)}"
        status = Text(line.status, style=STYLES.get(line.status, ""))
        health.add_row(status, printable(line.subject), printable(line.sentence), Text(since, style="dim"))
    numbers = Table.grid(padding=(0, 2, 0, 0))
    for name, value in _numbers(overview):
        numbers.add_row(Text(name, style="dim"), printable(value))
    raised = Table.grid(padding=(0, 2, 0, 0))
    for alert in alerts:
        raised.add_row(Text(alert.kind, style="bold red"), local(alert.raised_at), printable(alert.sentence))
    return Group(heading, "", health, "", numbers, *(("", raised) if alerts else ()))


def _numbers(overview: Overview) -> Iterator[tuple[str, str]]:
    if overview.is_read:
        yield "last hour", f"{_bars(overview.rates)} {sum(overview.rates):,} deliveries"
        oldest = None if overview.oldest_at is None else overview.at - overview.oldest_at
        yield "oldest unsettled", "none" if oldest is None else human_duration(oldest)
    else:
        yield "oldest unsettled", "not known: the ledger cannot be read"
    yield "queues", "Redis does not answer" if overview.depths is None else _counts(overview.depths)
    today = overview.today
    if today is None:
        return
    warnings = warnings_in_words(today.warnings)
    for name, counts in (("events", today.events), ("deliveries", today.deliveries), ("fee warnings", warnings)):
        yield f"today's {name}", _counts(counts)
    for channel, states in today.pushes.items():
        yield f"pushes by {channel}", _counts(states)
    yield "authorizations", _counts(today.authorizations)
    for name, latency in today.latency.items():
        if latency.p50 is not None and latency.p99 is not None:
            text = f"p50 {human_duration(latency.p50)}, p99 {human_duration(latency.p99)}"
            yield name.replace("_", " "), text


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items()) or "none"


def _bars(rates: Sequence[int]) -> str:
    most = max(rates) or 1
    return "".join(BARS[(len(BARS) - 1) * rate // most] for rate in rates)


def _open_alerts(stores: Opener) -> list[AlertRow]:
    try:
        with stores.open() as opened:
            return find_alerts(opened.ledger, only_open=True, limit=SHOWN_ALERTS)
    except (SQLAlchemyError, WebhooksError):
        return []  # a line of the overview says so
