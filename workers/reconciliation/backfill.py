"""Backfill windows in which events may be missing from the histories of known users: tasks of the clock.

downtime -> Redis -> [import] -> ledger -> [backfill] -> Drive API -> merge -> ledger
"""

import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta

import redis
import structlog
from sqlalchemy import Connection

from ingest.errors import QueueUnavailable
from ingest.inbox.downtime import KEY, Downtime
from workers.drive.client import DriveClient
from workers.drive.drive_errors import OUTAGES, RATE_LIMITED, DriveError, NotFound
from workers.drive.models import DriveSession
from workers.execution.commit import PostCommit, run_post_commit
from workers.ledger import downtimes, session_polls
from workers.ledger.database.engine import chunks
from workers.ledger.database.transaction import read_once, run_in_transaction
from workers.ledger.downtimes import BackfillProgress, BackfillWindow
from workers.ledger.session_polls import PollSchedule
from workers.reconciliation.merge_drive import merge_drive_sessions
from workers.resilience.token_bucket import TokenBucket
from workers.resources import Resources

log = structlog.get_logger()

LEASE = timedelta(minutes=2)
"""How long a clock holds a window; each user renews it."""

TIME_SLICE = timedelta(seconds=20)
"""How long one turn starts with another user."""

USER_PAGE = 1000
"""Users listed at once, for many turns: the query reads all sessions of KNOWN_USERS_FOR."""

PROBE_USERS = 2
"""How many of the first users are tried, beside the next one, when the Drive API fails for a user."""

LOOKBACK = timedelta(hours=12)
"""How long before a downtime a session may have started whose start was skipped and whose end fell into it."""

HISTORY_PAGE = 50
"""Sessions in a page of a history by default: the calls that the budget counts."""


class ImportDowntimes:
    """Imports the downtimes that `serve` has recorded in Redis; without the Drive API too, as a person reads them."""

    name = "downtimes"
    every = timedelta(seconds=5)

    def __init__(self, resources: Resources) -> None:
        self._resources = resources

    def run(self) -> None:
        """Insert new downtimes, and make the polls of sessions due that waited for news during one."""
        try:
            recorded = self._resources.connection.hgetall(KEY)
        except redis.RedisError as error:
            raise QueueUnavailable(f"the downtimes cannot be read from Redis: {type(error).__name__}") from None
        found = list(_parse_downtimes(recorded.values()))

        def insert(ledger: Connection) -> list[Downtime]:
            at = datetime.now(UTC)
            new = downtimes.import_new(ledger, found, at)
            for downtime in new:
                since = downtime.closed_at - self._resources.settings.reconcile_for
                session_polls.schedule_now(ledger, since, downtime.opened_at, at)
            return new

        for downtime in run_in_transaction(self._resources.engine, insert) if found else []:
            log.warning("downtime.imported", inbox=downtime.inbox, seconds=round(downtime.length.total_seconds(), 1))


class BackfillHistories:
    """Reads the histories of known users for open windows: downtimes, and a routine one again and again.

    Its progress is in the ledger, so a new clock continues where one stopped.
    """

    name = "backfill"
    every = timedelta(seconds=3)

    def __init__(self, resources: Resources, drive: DriveClient, budget: TokenBucket) -> None:
        self._resources = resources
        self._drive = drive
        self._budget = budget
        self._schedule = PollSchedule.of(resources.settings)
        self._plugins = resources.plugins
        self._listed: list[str] = []

    def run(self) -> None:
        """Continue with one window."""
        settings, engine = self._resources.settings, self._resources.engine

        def claim(ledger: Connection) -> BackfillWindow | None:
            downtimes.schedule_routine(ledger, settings.history_every, settings.history_span, datetime.now(UTC))
            return downtimes.claim(ledger, datetime.now(UTC), LEASE)

        window = run_in_transaction(engine, claim)
        if window is None:
            return
        covered_at = None
        try:
            if self._backfill(window):
                covered_at = datetime.now(UTC)
        finally:
            run_in_transaction(engine, lambda ledger: downtimes.release(ledger, window, covered_at))
        if covered_at is not None and not window.is_routine:
            log.info("downtime.backfilled", inbox=window.inbox)

    def _backfill(self, window: BackfillWindow) -> bool:
        """Read users' histories until the time slice or the budget is over; return whether no user is left."""
        until = time.monotonic() + TIME_SLICE.total_seconds()
        known_since = datetime.now(UTC) - self._resources.settings.known_users_for
        after = window.after_user
        while True:
            users = self._next_users(after, known_since)
            if not users:
                return True
            for number, user_id in enumerate(users):
                if time.monotonic() > until or self._budget.available() == 0:
                    return False
                progress = self._read_user(window, user_id, users[number + 1 : number + 2])
                run_in_transaction(
                    self._resources.engine,
                    lambda ledger: downtimes.advance(ledger, window, progress, datetime.now(UTC) + LEASE),  # noqa: B023  called at once
                )
                after = user_id

    def _next_users(self, after: str | None, known_since: datetime) -> list[str]:
        """Return the rest of the users that were listed last, or list the next ones."""
        if after is not None and after in self._listed[:-1]:
            return self._listed[self._listed.index(after) + 1 :]
        self._listed = self._users_after(after, known_since, USER_PAGE)
        return self._listed

    def _users_after(self, user_id: str | None, known_since: datetime, limit: int) -> list[str]:
        # A long query; as a read it blocks no writer of SQLite.
        return read_once(
            self._resources.engine, lambda ledger: downtimes.users_after(ledger, user_id, known_since, limit)
        )

    def _read_user(self, window: BackfillWindow, user_id: str, following: Sequence[str]) -> BackfillProgress:
        """Merge the history of a user. If the Drive API fails for this user only, skip them for the others' sake."""
        for is_retry in (False, True):
            try:
                return self._merge_history(window, user_id)
            except NotFound:
                return BackfillProgress(user_id, 0)
            except RATE_LIMITED:
                raise
            except DriveError as failure:
                is_outage = isinstance(failure, OUTAGES)
                if is_outage and not is_retry and not self._answers_for_others(window, user_id, following):
                    raise
                reason = str(failure)
        log.warning("history.skipped", reason=reason)
        return BackfillProgress(user_id, 0, is_failed=True)

    def _answers_for_others(self, window: BackfillWindow, user_id: str, following: Sequence[str]) -> bool:
        """Return whether the Drive API answers for any other user: then only this one fails."""
        known_since = datetime.now(UTC) - self._resources.settings.known_users_for
        for other in (*following, *self._users_after(None, known_since, PROBE_USERS)):
            if other == user_id:
                continue
            try:
                self._merge_history(window, other)
            except RATE_LIMITED:
                raise
            except OUTAGES:
                continue
            except DriveError:
                pass
            return True
        return False

    def _merge_history(self, window: BackfillWindow, user_id: str) -> BackfillProgress:
        found = self._history(window, user_id)
        read_at = datetime.now(UTC)
        for chunk in chunks(found, HISTORY_PAGE):
            result = run_in_transaction(
                self._resources.engine,
                lambda ledger: merge_drive_sessions(ledger, user_id, chunk, read_at, self._schedule, self._plugins),  # noqa: B023  called at once
            )
            run_post_commit(self._resources, PostCommit(enqueue_runs=result.wakes))
            if result.changed:
                log.info("sessions.reconciled", sessions=len(result.changed), read=len(chunk))
        return BackfillProgress(user_id, len(found))

    def _history(self, window: BackfillWindow, user_id: str) -> list[DriveSession]:
        self._budget.consume(1)
        since = window.closed_at if window.is_routine else window.closed_at - LOOKBACK
        found = list(self._drive.history(user_id, started_from=since, started_until=window.opened_at))
        self._budget.consume(len(found) // HISTORY_PAGE)
        return found


def _parse_downtimes(recorded: Iterable[bytes | str]) -> Iterable[Downtime]:
    for text in recorded:
        try:
            yield Downtime.from_json(text)
        except (ValueError, KeyError, TypeError):
            log.warning("downtime.unreadable")
