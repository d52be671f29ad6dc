"""Format times for drivers, in their time zone and locale, which phones spell in many ways."""

import re
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone, tzinfo
from functools import cache
from zoneinfo import ZoneInfo, available_timezones

from babel import Locale, UnknownLocaleError
from babel.core import get_global
from babel.dates import format_date, format_time

SHOW_WEEKDAY_AFTER = timedelta(hours=12)
"""A time of day alone is ambiguous if it is further away."""

EUROPE = Locale("en", "150")
"""English without a region: drivers charge in Europe, where it is 21:02 and not 9:02 PM."""

LOCALE = re.compile(
    r"\s*([a-z]{2,3})(?:[-_][a-z]{3})?(?:[-_]([a-z]{4}))?(?:[-_]([a-z]{2}|[0-9]{3}))?(?![a-z0-9])",
    re.IGNORECASE | re.ASCII,
)
"""The language, script and region at the start of a locale, POSIX's or BCP 47's; what follows is not about words."""

OFFSET = re.compile(r"(?:UTC|GMT)?\s*([+\-\N{MINUS SIGN}])([0-9]{1,2}):?([0-5][0-9])?", re.IGNORECASE)
LONGEST_OFFSET = timedelta(hours=14)
NO_ZONES = frozenset({"factory", "localtime"})
"""Names in the time zone database that are not a place's."""


@dataclass(frozen=True, slots=True)
class LocalTime:
    """A time in a template: `{{ starts_at }}` renders `09:02`, and `Wed 09:02` if it is not soon."""

    at: datetime
    """In the driver's time zone."""
    is_soon: bool
    locale: Locale

    @classmethod
    def of(cls, at: datetime, locale: str, time_zone: str, now: datetime) -> "LocalTime":
        """Convert a time. An unknown time zone counts as UTC, an unknown locale as English in Europe."""
        try:
            local = at.astimezone(_zone(time_zone))
        except OverflowError:  # the last hours of the calendar, which an event may have
            local = at
        return cls(local, at - now < SHOW_WEEKDAY_AFTER, _locale(locale))

    @property
    def time(self) -> str:
        """The time of day; with its offset in the hour that comes twice, when the clocks go back: `02:30 (UTC+2)`."""
        text = format_time(self.at, "short", tzinfo=self.at.tzinfo, locale=self.locale)
        return f"{text} ({_offset_name(self.at)})" if _comes_twice(self.at) else text

    @property
    def day(self) -> str:
        """The day of the week."""
        return format_date(self.at, "EEE", locale=self.locale)

    def __str__(self) -> str:
        """Return the time of day, with the day of the week unless it is soon."""
        return self.time if self.is_soon else f"{self.day} {self.time}"


def parse_locale(text: object) -> str | None:
    """Return the language of a locale, with its script and region if it has them; None if there is none that is known.

    Phones send `de_DE.UTF-8`, `en-US-u-fw-mon`, `zh_Hans_CN`, `de-DE@euro`, or nothing that names a language, as `C`.
    """
    found = LOCALE.match(text) if isinstance(text, str) else None
    if found is None:
        return None
    language, script, region = found.groups()
    for parts in ((language, script, region), (language, script), (language, region), (language,)):
        try:
            known = Locale.parse("_".join(filter(None, parts)))
        except (UnknownLocaleError, ValueError):
            continue
        if language.lower() in {"und", "mul", "zxx"}:  # no language, which babel takes for English
            return None
        # With what was sent only, for babel adds what is likely: it takes `deu` for de_DE.
        rest = (part.title() if part == script else part.upper() for part in parts[1:] if part)
        return "-".join((known.language, *rest))
    return None


def parse_time_zone(text: object) -> str | None:
    """Return the name of a time zone, as in the IANA database or as `UTC+05:30`; None if it is not known.

    Phones send names in any case, names that have been replaced since, offsets, and Windows' names.
    """
    if not isinstance(text, str):
        return None
    name = " ".join(text.split())
    names = _zone_names()
    offset = _fixed_offset(name)
    return names.get(name.casefold()) or names.get(name.casefold().replace(" ", "_")) or (offset and str(offset))


@cache
def _zone_names() -> dict[str, str]:
    """Return the names of zones by their spelling without case: Windows', then those of the IANA database."""
    windows: dict[str, str] = dict(get_global("windows_zone_mapping"))
    aliases: dict[str, str] = dict(get_global("zone_aliases"))
    known = available_timezones()
    names = {name.casefold(): zone for name, zone in (windows | aliases).items() if zone in known}
    names |= {name.casefold(): name for name in known}
    return {name: zone for name, zone in names.items() if name not in NO_ZONES}


def _zone(text: str) -> tzinfo:
    name = parse_time_zone(text) or "UTC"
    return _fixed_offset(name) or ZoneInfo(name)


def _fixed_offset(name: str) -> timezone | None:
    found = OFFSET.fullmatch(name)
    if found is None:
        return None
    span = timedelta(hours=int(found[2]), minutes=int(found[3] or 0))
    return timezone(span if found[1] == "+" else -span) if span <= LONGEST_OFFSET else None


def _comes_twice(local: datetime) -> bool:
    return local.replace(fold=0).utcoffset() != local.replace(fold=1).utcoffset()


def _offset_name(local: datetime) -> str:
    """Return the offset as people write it: `UTC+2`, `UTC+5:30`."""
    return re.sub(r"([+-])0?(\d+)(?::00|(:\d\d))", r"\1\2\3", str(timezone(local.utcoffset() or timedelta())))


def _locale(text: str) -> Locale:
    found = Locale.parse(parse_locale(text) or "en", sep="-")
    return EUROPE if found.language == "en" and found.territory is None else found
