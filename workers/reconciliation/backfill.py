"""Duties of the clock: windows of time in which events may be missing are covered by the histories of known users.

closed door -> Redis -> [history] -> ledger -> [history] -> Drive API -> healing -> ledger
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
from workers.drive.errors import DriveError, DriveUnavailable, NotFound, RateBudgetExhausted, Throttled, Unauthorized
from workers.drive.models import DriveSession
from workers.execution.commit import PostCommit, run_post_commit
from workers.ledger import downtimes, session_polls
from workers.ledger.database.engine import chunks
from workers.ledger.database.transaction import read_once, run_in_transaction
from workers.ledger.downtimes import BackfillProgress, BackfillWindow
from workers.ledger.poll_schedule import PollSchedule
from workers.reconciliation.merge_drive import merge_drive_sessions
from workers.resilience.token_bucket import TokenBucket
from workers.resources import Resources

log = structlog.get_logger()

LEASE = timedelta(minutes=2)
"""How long a window is left to the clock that covers it; each user done begins it anew."""

TIME_SLICE = timedelta(seconds=20)
"""How long a turn goes on with the next user."""

USERS_AT_ONCE = 1000
"""Listed at once, and gone through in many turns: to list them reads all sessions of KNOWN_USERS_FOR."""

PROBE_USERS = 2
"""Of the first users: so many are asked about, beside the next one, when there is no answer about a user."""

LOOKBACK = timedelta(hours=12)
"""How much earlier than a door closed sessions may have begun whose start was never told and that ended behind it."""

A_PAGE = 50
"""Sessions that one call of a history brings, unless more is asked for: what the allowance counts."""


class ImportDowntimes:
    """Takes in what `serve` tells of times in which its door was closed; without the Drive API, too: for a person."""

    name = "gaps"
    every = timedelta(minutes=1)

    def __init__(self, equipment: Resources) -> None:
        self._equipment = equipment

    def run(self) -> None:
        """Bring new gaps to the ledger; sessions that waited for something at that time are read at once."""
        try:
            told = self._equipment.connection.hgetall(KEY)
        except redis.RedisError as error:
            raise QueueUnavailable(f"the gaps cannot be read: {type(error).__name__}") from None
        found = list(_readable(told.values()))

        def keep(ledger: Connection) -> list[Downtime]:
            at = datetime.now(UTC)
            new = downtimes.import_new(ledger, found, at)
            for gap in new:
                since = gap.closed_at - self._equipment.settings.reconcile_for
                session_polls.schedule_now(ledger, since, gap.opened_at, at)
            return new

        for gap in run_in_transaction(self._equipment.engine, keep) if found else []:
            log.warning("gap.noticed", inbox=gap.inbox, seconds=round(gap.length.total_seconds(), 1))


class BackfillHistories:
    """Reads the histories of known users for windows that are not covered: after a closed door, and as a routine.

    How far it has come lies in the ledger, so a new clock goes on where one ended.
    """

    name = "history"
    every = timedelta(seconds=3)

    def __init__(self, equipment: Resources, drive: DriveClient, allowance: TokenBucket) -> None:
        self._equipment = equipment
        self._drive = drive
        self._allowance = allowance
        self._rhythm = PollSchedule.of(equipment.settings)
        self._listed: list[str] = []

    def run(self) -> None:
        """Go on with one window."""
        settings, engine = self._equipment.settings, self._equipment.engine

        def claim(ledger: Connection) -> BackfillWindow | None:
            downtimes.schedule_routine(ledger, settings.history_every, settings.history_span, datetime.now(UTC))
            return downtimes.claim(ledger, datetime.now(UTC), LEASE)

        gap = run_in_transaction(engine, claim)
        if gap is None:
            return
        covered_at = None
        try:
            if self._backfill(gap):
                covered_at = datetime.now(UTC)
        finally:
            run_in_transaction(engine, lambda ledger: downtimes.release(ledger, gap, covered_at))
        if covered_at is not None and not gap.is_routine:
            log.info("gap.covered", inbox=gap.inbox)

    def _backfill(self, gap: BackfillWindow) -> bool:
        """Read users' histories until the turn is over, and return whether none is left."""
        until = time.monotonic() + TIME_SLICE.total_seconds()
        known_since = datetime.now(UTC) - self._equipment.settings.known_users_for
        after = gap.after_user
        while True:
            users = self._next_users(after, known_since)
            if not users:
                return True
            for place, user_id in enumerate(users):
                if time.monotonic() > until or self._allowance.available() == 0:
                    return False
                step = self._read(gap, user_id, users[place + 1 : place + 2])
                run_in_transaction(
                    self._equipment.engine,
                    lambda ledger: downtimes.advance(ledger, gap, step, datetime.now(UTC) + LEASE),  # noqa: B023  called at once
                )
                after = user_id

    def _next_users(self, after: str | None, known_since: datetime) -> list[str]:
        """Return what is left of those that were listed last, or list more."""
        if after is not None and after in self._listed[:-1]:
            return self._listed[self._listed.index(after) + 1 :]
        self._listed = self._users_after(after, known_since, USERS_AT_ONCE)
        return self._listed

    def _users_after(self, user_id: str | None, known_since: datetime, limit: int) -> list[str]:
        # On SQLite a look keeps nobody from writing, and this one is long.
        return read_once(
            self._equipment.engine, lambda ledger: downtimes.users_after(ledger, user_id, known_since, limit)
        )

    def _read(self, gap: BackfillWindow, user_id: str, following: Sequence[str]) -> BackfillProgress:
        """Read what one user did. If only this one cannot be read, they are passed over: the others must not wait."""
        try:
            return BackfillProgress(user_id, self._merge(user_id, self._history(gap, user_id)))
        except NotFound:
            return BackfillProgress(user_id, 0)
        except (Throttled, RateBudgetExhausted):
            raise
        except (DriveUnavailable, Unauthorized):
            if not self._api_answers_others(gap, user_id, following):
                raise
        except DriveError:
            pass
        try:
            return BackfillProgress(user_id, self._merge(user_id, self._history(gap, user_id)))
        except (Throttled, RateBudgetExhausted):
            raise
        except DriveError as failure:
            log.warning("history.passed_over", reason=str(failure))
            return BackfillProgress(user_id, 0, is_failed=True)

    def _api_answers_others(self, gap: BackfillWindow, user_id: str, following: Sequence[str]) -> bool:
        """Say whether the Drive API answers about any other user: else it is not about this one that it is silent."""
        known_since = datetime.now(UTC) - self._equipment.settings.known_users_for
        for other in (*following, *self._users_after(None, known_since, PROBE_USERS)):
            try:
                if other != user_id:
                    self._merge(other, self._history(gap, other))
                    return True
            except (Throttled, RateBudgetExhausted):
                raise
            except (DriveUnavailable, Unauthorized):
                continue
            except DriveError:
                return True
        return False

    def _history(self, gap: BackfillWindow, user_id: str) -> list[DriveSession]:
        self._allowance.consume(1)
        since = gap.closed_at if gap.is_routine else gap.closed_at - LOOKBACK
        found = list(self._drive.history(user_id, started_from=since, started_until=gap.opened_at))
        self._allowance.consume(len(found) // A_PAGE)
        return found

    def _merge(self, user_id: str, told: list[DriveSession]) -> int:
        read_at = datetime.now(UTC)
        for some in chunks(told, A_PAGE):
            healing = run_in_transaction(
                self._equipment.engine,
                lambda ledger: merge_drive_sessions(ledger, user_id, some, read_at, self._rhythm),  # noqa: B023  called at once
            )
            run_post_commit(self._equipment, PostCommit(offer=healing.wakes))
            if healing.changed:
                log.info("sessions.healed", sessions=len(healing.changed), read=len(some))
        return len(told)


def _readable(told: Iterable[bytes | str]) -> Iterable[Downtime]:
    for text in told:
        try:
            yield Downtime.from_json(text)
        except (ValueError, KeyError, TypeError):
            log.warning("gap.unreadable")
