"""How commands write: aligned tables for people, one JSON object a line for programs, nothing that moves a cursor."""

import importlib
import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import click
import structlog
from rich.console import Console
from rich.table import Table
from rich.traceback import Traceback

from ingest.config.settings import Settings
from ingest.log import configure_logging
from workers.lists.formatting import Cell, Json, cell_text

UNLIMITED_WIDTH = 10_000
"""The width of a table that a program reads."""


def json_line(row: Mapping[str, Json]) -> None:
    """Print one object as one line of ASCII, which no terminal interprets."""
    click.echo(json.dumps(row))


def table(headings: Sequence[str], rows: Iterable[Sequence[Cell]], *, wrapping: int = 1) -> None:
    """Print rows under their headings, or `None.`; on a narrow terminal the last `wrapping` columns wrap."""
    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    piped = not console().is_terminal
    for number, heading in enumerate(headings, start=wrapping - len(headings)):
        grid.add_column(heading, no_wrap=piped or number < 0, overflow="fold" if number >= 0 else "ellipsis")
    for row in rows:
        grid.add_row(*[cell_text(cell) for cell in row])
    if grid.row_count:
        _print(grid)
    else:
        click.echo("None.")


def key_values(pairs: Iterable[tuple[str, Cell]]) -> None:
    """Print names and values, one pair a line, aligned."""
    grid = Table.grid(padding=(0, 2, 0, 0), pad_edge=False)
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in pairs:
        grid.add_row(name, cell_text(value))
    _print(grid)


def _print(grid: Table) -> None:
    screen = console()
    with screen.capture() as captured:
        screen.print(grid)
    for line in captured.get().splitlines():
        click.echo(line.rstrip())  # rich pads every column with blanks, the last one too


def console() -> Console:
    """Return a console on the current stdout; unless that is a terminal, it never breaks a line."""
    found = Console(highlight=False, soft_wrap=True)
    return found if found.is_terminal else Console(highlight=False, soft_wrap=True, width=UNLIMITED_WIDTH)


@contextmanager
def logs_to_stderr(settings: Settings, command: str) -> Iterator[None]:
    """Log to stderr for the while, and restore logging afterwards: commands also run inside of other programs."""
    was_configured, before = structlog.is_configured(), structlog.get_config()
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    configure_logging(settings, command)
    try:
        yield
    finally:
        root.handlers = handlers
        root.setLevel(level)
        structlog.reset_defaults()
        if was_configured:
            structlog.configure(**before)


def print_traceback(error: BaseException) -> None:
    """Print a traceback on stderr, in colour on a terminal, without the frames of the import itself."""
    Console(stderr=True).print(Traceback.from_exception(type(error), error, error.__traceback__, suppress=[importlib]))
