"""How commands write: aligned tables for people, one JSON object a line for programs, nothing that moves a cursor."""

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TypeAlias

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

SHORT_ID = 12
STYLES = {
    "settled": "green",
    "done": "green",
    "sent": "green",
    "ok": "green",
    "retrying": "yellow",
    "again": "yellow",
    "expired": "yellow",
    "warn": "yellow",
    "dead": "bold red",
    "unreadable": "bold red",
    "fail": "bold red",
}
#: As wide as a table likes to be when it is read by a program and not by a person.
UNLIMITED_WIDTH = 10_000

Cell: TypeAlias = str | int | datetime | timedelta | Text | None
Json: TypeAlias = "str | int | float | bool | Mapping[str, Json] | Sequence[Json] | None"


def json_line(row: Mapping[str, Json]) -> None:
    """Write one object as one line of ASCII, so that no terminal obeys what it prints."""
    click.echo(json.dumps(row))


def table(headings: Sequence[str], rows: Iterable[Sequence[Cell]], *, wrapping: int = 1) -> None:
    """Write rows under their headings, or that there are none; on a narrow terminal the last columns wrap."""
    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    piped = not console().is_terminal
    for number, heading in enumerate(headings, start=wrapping - len(headings)):
        grid.add_column(heading, no_wrap=piped or number < 0, overflow="fold" if number >= 0 else "ellipsis")
    for row in rows:
        grid.add_row(*[cell_text(cell) for cell in row])
    if grid.row_count:
        _write(grid)
    else:
        click.echo("None.")


def key_values(pairs: Iterable[tuple[str, Cell]]) -> None:
    """Write names and values, one pair a line, aligned."""
    grid = Table.grid(padding=(0, 2, 0, 0), pad_edge=False)
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in pairs:
        grid.add_row(name, cell_text(value))
    _write(grid)


def _write(grid: Table) -> None:
    screen = console()
    with screen.capture() as written:
        screen.print(grid)
    for line in written.get().splitlines():
        click.echo(line.rstrip())  # rich fills every column up with blanks, the last one too


def console() -> Console:
    """Open the console that is stdout now; not a terminal, it never breaks a line."""
    found = Console(highlight=False, soft_wrap=True)
    return found if found.is_terminal else Console(highlight=False, soft_wrap=True, width=UNLIMITED_WIDTH)


def cell_text(cell: Cell) -> Text:
    """Put a value as a person reads it."""
    match cell:
        case Text():
            return cell
        case None:
            return Text("-", style="dim")
        case datetime():
            return Text(local(cell))
        case timedelta():
            return Text(human_duration(cell))
        case _:
            return Text(printable(str(cell)))


def styled_state(word: StrEnum, width: int = 0) -> Text:
    """Write a state or an outcome in the color that says whether somebody should look."""
    return Text.assemble((word.ljust(width), STYLES.get(word.value, "")))


def iso(at: datetime | None) -> str | None:
    """Write a time as programs read it: ISO 8601, UTC, with Z."""
    return None if at is None else at.astimezone(UTC).isoformat().replace("+00:00", "Z")


def local(at: datetime) -> str:
    """Write a time as a person reads it: on their clock, with the day unless that is today."""
    here = at.astimezone()
    today = datetime.now(UTC).astimezone().date()
    return here.strftime("%H:%M:%S" if here.date() == today else "%Y-%m-%d %H:%M:%S")


def clock_name() -> str:
    """Name the clock that `local` reads: `UTC`, or `CEST`; a driver's may be another one."""
    return datetime.now(UTC).astimezone().tzname() or "local"


def human_duration(length: timedelta) -> str:
    """Write a span in the unit that fits it: `85 ms`, `4.2 s`, `12 min`, `3 h`, `2 d`."""
    seconds = length.total_seconds()
    sign, seconds = ("-" if seconds < 0 else ""), abs(seconds)
    if seconds < 1:
        return f"{sign}{seconds * 1000:.0f} ms"
    for limit, size, unit, digits in ((60, 1, "s", 1), (5_400, 60, "min", 0), (172_800, 3_600, "h", 0)):
        if seconds < limit:
            return f"{sign}{seconds / size:.{digits}f} {unit}"
    return f"{sign}{seconds / 86_400:.0f} d"


def short_id(delivery_id: str) -> str:
    """Shorten an id to what `show` and `replay` accept."""
    return delivery_id[:SHORT_ID]


def printable(text: str) -> str:
    """Escape whatever a terminal would obey instead of print: control characters, bidi marks, lone surrogates."""
    if text.isprintable():
        return text
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)


def printable_body(body: bytes) -> str:
    r"""Show bytes as text, those that are not UTF-8 as \xNN; lines stay lines."""
    return "\n".join(printable(line) for line in body.decode("utf-8", "backslashreplace").split("\n"))
