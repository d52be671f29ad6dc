"""The operators of chargers for fee warnings, which name them where they are known: read when a session is new.

new session -> [operators] -> Drive API -> merge -> ledger
"""

from collections import OrderedDict
from datetime import datetime, timedelta

import structlog

from ingest.wire.timestamps import utc_now
from workers.drive.client import DriveClient
from workers.drive.drive_errors import OUTAGES, DriveError
from workers.drive.models import DriveSession
from workers.execution.commit import PostCommit, run_post_commit
from workers.ledger import sessions
from workers.ledger.database.transaction import read_once, run_in_transaction
from workers.ledger.session_polls import PollSchedule
from workers.reconciliation.merge_drive import merge_drive_sessions
from workers.resilience.token_bucket import TokenBucket
from workers.resources import Resources

log = structlog.get_logger()

STALE_AFTER = timedelta(days=1)
"""How long the name of a location's operator is taken for true."""

STARTUP_LOOKBACK = timedelta(minutes=15)
"""How old the news may be that a new clock looks at first."""

NEWS_OVERLAP = timedelta(seconds=10)
"""Records committed later than others, or on a machine with another clock, are seen all the same."""

MAX_REMEMBERED = 10_000
"""Sessions that are not read again, and locations whose names are cached."""

PER_TURN = 20

SCAN_LIMIT = 1000
"""The newest news that a turn looks at: in a flood the sessions before that stay without a name."""


class Locations:
    """Names the operators of locations, from a cache."""

    def __init__(self, drive: DriveClient, budget: TokenBucket) -> None:
        self._drive = drive
        self._budget = budget
        self._names: OrderedDict[str, tuple[str | None, datetime]] = OrderedDict()

    def with_operator(self, found: DriveSession) -> DriveSession:
        """Return the session with the operator that its location names, which is more exact than its own."""
        name = None if found.location_id is None else self._name(found.location_id)
        if name is None:
            return found
        return found.model_copy(update={"operator_display_name": name, "is_operator_of_location": True})

    def _name(self, location_id: str) -> str | None:
        name, read_at = self._names.get(location_id, (None, None))
        if read_at is not None and utc_now() - read_at < STALE_AFTER:
            return name
        if self._budget.available() == 0:
            return name
        self._budget.consume(1)
        try:
            name = self._drive.location(location_id).operator_display_name or name
        except DriveError as failure:
            log.warning("location.read_failed", location=location_id, reason=str(failure))
        self._names[location_id] = name, utc_now()
        while len(self._names) > MAX_REMEMBERED:
            self._names.popitem(last=False)
        return name


class ReadOperators:
    """Reads each new session once, for the name of its operator."""

    name = "operators"
    every = timedelta(seconds=2)

    def __init__(self, resources: Resources, drive: DriveClient, budget: TokenBucket) -> None:
        self._resources = resources
        self._drive = drive
        self._budget = budget
        self._locations = Locations(drive, budget)
        self._schedule = PollSchedule.of(resources.settings)
        self._since = utc_now() - STARTUP_LOOKBACK
        self._tried: OrderedDict[str, None] = OrderedDict()

    def run(self) -> None:
        """Read the sessions with news since the last turn that have no operator yet, as far as the budget goes."""
        since, until = self._since - NEWS_OVERLAP, utc_now()
        limit = min(self._budget.available() // 2, PER_TURN)  # the other half is for sessions that must be polled
        found = read_once(self._resources.engine, lambda ledger: sessions.without_operator(ledger, since, SCAN_LIMIT))
        untried = [each for each in found if each[1] not in self._tried]
        for user_id, session_id in untried[:limit]:
            self._budget.consume(1)
            try:
                self._read(user_id, session_id)
            except OUTAGES:
                self._tried.pop(session_id, None)
                raise
            except DriveError as failure:  # it is polled later, as every session is
                log.info("session.not_read", session=session_id, reason=str(failure))
        if len(untried) <= limit:
            self._since = until

    def _read(self, user_id: str, session_id: str) -> None:
        self._tried[session_id] = None
        while len(self._tried) > MAX_REMEMBERED:
            self._tried.popitem(last=False)
        read_at = utc_now()
        found = self._locations.with_operator(self._drive.session(user_id, session_id))
        plugins = self._resources.plugins
        result = run_in_transaction(
            self._resources.engine,
            lambda ledger: merge_drive_sessions(ledger, user_id, [found], read_at, self._schedule, plugins),
        )
        run_post_commit(self._resources, PostCommit(enqueue_runs=result.wakes))
