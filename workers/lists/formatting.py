"""Format the values of lists: for people, for programs, and with nothing in them that a terminal would interpret."""

from collections.abc import Mapping, Sequence  # noqa: TC003 - the alias is used at run time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import TypeAlias

from rich.text import Text

SHORT_ID = 12
STYLES = {
    **dict.fromkeys(("settled", "done", "sent", "ok"), "green"),
    **dict.fromkeys(("retrying", "again", "expired", "warn"), "yellow"),
    **dict.fromkeys(("dead", "unreadable", "fail"), "bold red"),
}


@dataclass(frozen=True)
class Sentence:
    """A text with values in it, each of which is formatted by its kind."""

    parts: tuple["Cell", ...]

    @classmethod
    def of(cls, *parts: "Cell") -> "Sentence":
        """Return the sentence of these parts."""
        return cls(parts)


Cell: TypeAlias = str | int | datetime | timedelta | Text | Sentence | None
Json: TypeAlias = "str | int | float | bool | Mapping[str, Json] | Sequence[Json] | None"


def cell_text(cell: object) -> Text:
    """Format a value for people; a state has its color. Raise TypeError if it is no single value."""
    match cell:
        case Text():
            return cell
        case Sentence():
            return Text.assemble(*(cell_text(part) for part in cell.parts))
        case None:
            return Text("-", style="dim")
        case StrEnum():
            return styled_state(cell)
        case bool():
            text = "yes" if cell else "no"
        case Decimal():
            text = format_decimal(cell)
        case datetime():
            text = local(cell)
        case timedelta():
            text = human_duration(cell)
        case str() | int():
            text = printable(str(cell))
        case _:
            raise TypeError(f"a {type(cell).__name__} needs a column that formats it")
    return Text(text)


def styled_state(state: StrEnum, width: int = 0) -> Text:
    """Format a state or an outcome in the color that shows whether it needs attention."""
    return Text.assemble((state.ljust(width), STYLES.get(state.value, "")))


def format_decimal(number: Decimal) -> str:
    """Format a number with all its digits and no exponent."""
    return format(number, "f")


def iso(at: datetime | None) -> str | None:
    """Format a time for programs: ISO 8601, UTC, with Z."""
    return None if at is None else at.astimezone(UTC).isoformat().replace("+00:00", "Z")


def sentence_text(sentence: Sentence) -> str:
    """Format a sentence for programs: times as `iso` does."""
    parts = (iso(part) if isinstance(part, datetime) else cell_text(part).plain for part in sentence.parts)
    return "".join(part or "" for part in parts)


def local(at: datetime) -> str:
    """Format a time for people: on this machine's clock, with the day unless that is today."""
    today = datetime.now(UTC).astimezone().date()
    return clock_time(at, "%H:%M:%S" if at.astimezone().date() == today else "%Y-%m-%d %H:%M:%S")


def clock_time(at: datetime, form: str) -> str:
    """Format a time on this machine's clock, with its zone where that is not `clock_name`: in winter one of summer."""
    here = at.astimezone()
    return here.strftime(form) + (f" {here.tzname()}" if here.tzname() != clock_name() else "")


def clock_name() -> str:
    """Return the time zone of `local`: `UTC`, or `CEST`."""
    return datetime.now(UTC).astimezone().tzname() or "local"


def human_duration(length: timedelta) -> str:
    """Format a span in the unit that fits it: `85 ms`, `4.2 s`, `12 min`, `3 h`, `2 d`."""
    seconds = length.total_seconds()
    sign, seconds = ("-" if seconds < 0 else ""), abs(seconds)
    if seconds < 1:
        return f"{sign}{seconds * 1000:.0f} ms"
    for limit, size, unit, digits in ((60, 1, "s", 1), (5_400, 60, "min", 0), (172_800, 3_600, "h", 0)):
        if seconds < limit:
            return f"{sign}{seconds / size:.{digits}f} {unit}"
    return f"{sign}{seconds / 86_400:.0f} d"


def pluralize(count: int, thing: str) -> str:
    """Format a count of things: `1 CDR`, `2,000 CDRs`."""
    return f"{count:,} {thing}" if count == 1 else f"{count:,} {thing}s"


def short_id(delivery_id: str) -> str:
    """Return the beginning of an id, which `show` and `replay` accept."""
    return delivery_id[:SHORT_ID]


def printable(text: str) -> str:
    """Escape what a terminal would interpret: control characters, bidi marks, lone surrogates."""
    if text.isprintable():
        return text
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)


def printable_body(body: bytes) -> str:
    r"""Return bytes as printable text, those that are not UTF-8 as \xNN; lines stay lines."""
    return "\n".join(printable(line) for line in body.decode("utf-8", "backslashreplace").split("\n"))
