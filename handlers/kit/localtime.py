"""Format times for drivers, in their time zone and locale."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from babel import Locale, UnknownLocaleError
from babel.dates import format_date, format_time

SHOW_WEEKDAY_AFTER = timedelta(hours=12)
"""A time of day alone is ambiguous if it is further away."""

EUROPE = Locale("en", "150")
"""English without a region: drivers charge in Europe, where it is 21:02 and not 9:02 PM."""


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
        """The time of day."""
        return format_time(self.at, "short", tzinfo=self.at.tzinfo, locale=self.locale)

    @property
    def day(self) -> str:
        """The day of the week."""
        return format_date(self.at, "EEE", locale=self.locale)

    def __str__(self) -> str:
        """Return the time of day, with the day of the week unless it is soon."""
        return self.time if self.is_soon else f"{self.day} {self.time}"


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (KeyError, OSError, ValueError):  # devices send anything
        return ZoneInfo(UTC.tzname(None))


def _locale(text: str) -> Locale:
    name = text.replace("-", "_").split(".")[0]
    for candidate in (name, name.split("_")[0]):
        try:
            found = Locale.parse(candidate)
        except (UnknownLocaleError, ValueError):  # devices send anything
            continue
        return EUROPE if found.language == "en" and found.territory is None else found
    return EUROPE
