"""Calls the Drive API: retries, deadline and budget around requests and answers that are made elsewhere, purely."""

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from types import TracebackType
from typing import Self

import redis

from ingest.settings import Settings
from workers.drive.models import ALL_STATUSES, ChargingKey, DriveSession, Fleet, Invitation, Location, RoamToken


class DriveClient:
    """Asks the Drive API, from any thread. Each method raises DriveError; `deadline` is for one answer, or one page."""

    def __init__(
        self, settings: Settings, connection: redis.Redis | None, *, deadline: timedelta | None = None
    ) -> None:
        raise NotImplementedError

    def __enter__(self) -> Self:
        """Give back itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connections."""

    def session(self, user_id: str, session_id: str) -> DriveSession:
        """Read one session, finished or not."""
        raise NotImplementedError

    def history(
        self,
        user_id: str,
        *,
        statuses: Sequence[str] = ALL_STATUSES,
        charging_key_id: str | None = None,
        started_from: datetime | None = None,
        started_until: datetime | None = None,
    ) -> Iterator[DriveSession]:
        """Read a user's sessions, page by page; both times bound their start, inclusive."""
        raise NotImplementedError

    def charging_keys(self, fleet_id: str | None = None, *, page_size: int = 500) -> Iterator[ChargingKey]:
        """Read the charging keys of a fleet, or of the whole organization, page by page."""
        raise NotImplementedError

    def create_fleet(self, fleet_id: str, name: str | None = None) -> Fleet:
        """Create a fleet; its id can never be changed. Never tried twice."""
        raise NotImplementedError

    def rename_fleet(self, fleet_id: str, name: str) -> Fleet:
        """Give a fleet another name. Never tried twice."""
        raise NotImplementedError

    def invitation(self, fleet_id: str) -> Invitation:
        """Read the active invitation codes of a fleet."""
        raise NotImplementedError

    def balance(self, user_id: str) -> Decimal:
        """Read a user's prepaid balance, exactly. Raise SettingsError unless DRIVE_BALANCE_PATH says where."""
        raise NotImplementedError

    def location(self, location_id: str) -> Location:
        """Read a location."""
        raise NotImplementedError

    def push_token(self, token: RoamToken) -> None:
        """Tell Roam OCPI of a token. Never tried twice. Raise SettingsError without ROAM_OCPI_URL and its token."""
        raise NotImplementedError
