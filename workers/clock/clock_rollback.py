"""Handles the wall clock being set back: reschedules work that was postponed to a time now too far ahead."""

import time
from collections.abc import Callable
from datetime import datetime, timedelta

import structlog
from sqlalchemy import Connection, Engine, update

from ingest.wire.timestamps import utc_now
from workers.ledger.database.transaction import run_in_transaction
from workers.ledger.runs import locked_update
from workers.ledger.tables.alert_tables import alerts
from workers.ledger.tables.core_tables import pushes, runs
from workers.ledger.tables.reconciliation_tables import downtimes, session_polls

log = structlog.get_logger()

MIN_ROLLBACK = timedelta(seconds=5)
"""The smallest step back that counts; the daily corrections of a clock are smaller."""

RECHECK_AFTER = (timedelta(seconds=5), timedelta(seconds=35))
"""When to reschedule again: most transactions under way have committed soon after, and none lasts longer than this."""


class ClockRollback:
    """Compares the wall clock with the monotonic clock, and makes postponed work due now when it was set back.

    This costs some work an attempt too early, and work that is postponed meanwhile one or two more. Without it, a clock
    that was an hour ahead would delay all for an hour.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        wall: Callable[[], datetime] = utc_now,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._wall, self._monotonic = wall, monotonic
        self._difference = self._measure()
        self._recheck_at: list[float] = []

    def check(self) -> None:
        """Reschedule if the clock was set back since the last call. Raises LedgerUnavailable."""
        difference = self._measure()
        was_set_back = self._difference - difference >= MIN_ROLLBACK.total_seconds()
        if was_set_back or (self._recheck_at and self._monotonic() >= self._recheck_at[0]):
            count = run_in_transaction(self._engine, self._reschedule)
            log.warning("clock.set_back", seconds=round(self._difference - difference), rescheduled=count)
            if was_set_back:
                self._recheck_at = [self._monotonic() + each.total_seconds() for each in RECHECK_AFTER]
            self._recheck_at = [each for each in self._recheck_at if each > self._monotonic()]
        self._difference = difference  # only now, so that a failed transaction is repeated

    def _measure(self) -> float:
        return self._wall().timestamp() - self._monotonic()

    def _reschedule(self, ledger: Connection) -> int:
        at = self._wall()
        count = ledger.execute(locked_update(runs.c.due_at > at, skip_locked=True).values(due_at=at)).rowcount
        for column in (pushes.c.due_at, alerts.c.due_at, downtimes.c.claimed_until, session_polls.c.next_at):
            later = update(column.table).where(column > at)
            count += ledger.execute(later.values({column: at})).rowcount
        return count
