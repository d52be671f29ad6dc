"""A time as a driver reads it: on the clock where they live, written as they write it."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from babel import Locale, UnknownLocaleError
from babel.dates import format_date, format_time

SHOW_WEEKDAY_AFTER = timedelta(hours=12)
"""From so far away on, a time of day alone may be taken for another day's."""

EUROPE = Locale("en", "150")
"""English without a region: drivers charge in Europe, where it is 21:02 and not 9:02 PM."""


@dataclass(frozen=True, slots=True)
class LocalTime:
    """A time for a template: `{{ starts_at }}` writes `09:02`, and `Wed 09:02` when it is not soon."""

    at: datetime
    """In the driver's time zone."""
    is_soon: bool
    locale: Locale

    @classmethod
    def of(cls, at: datetime, locale: str, time_zone: str, now: datetime) -> "LocalTime":
        """Read the clock of a place; one that does not exist has UTC, and an unknown locale is written as in Europe."""
        try:
            there = at.astimezone(_zone(time_zone))
        except OverflowError:  # the last hours of the calendar, which an event may name
            there = at
        return cls(there, at - now < SHOW_WEEKDAY_AFTER, _locale(locale))

    @property
    def time(self) -> str:
        """The time of day."""
        return format_time(self.at, "short", tzinfo=self.at.tzinfo, locale=self.locale)

    @property
    def day(self) -> str:
        """The day of the week."""
        return format_date(self.at, "EEE", locale=self.locale)

    def __str__(self) -> str:
        """Write the time of day, with the day unless it is soon."""
        return self.time if self.is_soon else f"{self.day} {self.time}"


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (KeyError, OSError, ValueError):  # a device may say anything
        return ZoneInfo(UTC.tzname(None))


def _locale(text: str) -> Locale:
    name = text.replace("-", "_").split(".")[0]
    for candidate in (name, name.split("_")[0]):
        try:
            found = Locale.parse(candidate)
        except (UnknownLocaleError, ValueError):  # a device may say anything
            continue
        return EUROPE if found.language == "en" and found.territory is None else found
    return EUROPE
