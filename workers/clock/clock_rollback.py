"""A clock of the wall that is set back: what was put off until a time by the old one would wait for so much longer."""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial

import structlog
from sqlalchemy import Connection, Engine, update

from workers.ledger.database.transaction import run_in_transaction
from workers.ledger.ordered_update import locked_update
from workers.ledger.tables.alerts import alerts
from workers.ledger.tables.core import pushes, runs
from workers.ledger.tables.reconciliation import downtimes, session_polls

log = structlog.get_logger()
utc_now = partial(datetime.now, UTC)

MIN_ROLLBACK = timedelta(seconds=5)
"""How far the clock has to go back at once; what it is corrected by day after day is less."""

RECHECK_AFTER = (timedelta(seconds=5), timedelta(seconds=35))
"""When to look again: most that was under way has committed soon after, and no transaction lasts longer than that."""


class ClockRollback:
    """Compares the clock of the wall with one that nobody sets, and makes due now what was to be tried later.

    That is an attempt too early for some, and a further one or two for those that are put off again meanwhile; a clock
    that was an hour ahead would have kept them waiting for an hour.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        wall: Callable[[], datetime] = utc_now,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._wall, self._steady = wall, monotonic
        self._ahead_by = self._difference()
        self._again_at: list[float] = []

    def check(self) -> None:
        """See whether the clock was set back since the last look. Raises LedgerUnavailable."""
        difference = self._difference()
        went_back = self._ahead_by - difference >= MIN_ROLLBACK.total_seconds()
        is_time_again = bool(self._again_at) and self._steady() >= self._again_at[0]
        if went_back or is_time_again:
            count = run_in_transaction(self._engine, self._reschedule)
            log.warning("clock.set_back", seconds=round(self._ahead_by - difference), hurried=count)
            again_at = (
                [self._steady() + each.total_seconds() for each in RECHECK_AFTER] if went_back else self._again_at
            )
            self._again_at = [each for each in again_at if each > self._steady()]
        self._ahead_by = difference  # only now: what could not be done is seen again

    def _difference(self) -> float:
        return self._wall().timestamp() - self._steady()

    def _reschedule(self, ledger: Connection) -> int:
        at = self._wall()
        hurried = ledger.execute(locked_update(runs.c.due_at > at, skip_locked=True).values(due_at=at)).rowcount
        for column in (pushes.c.due_at, alerts.c.due_at, downtimes.c.claimed_until, session_polls.c.next_at):
            later = update(column.table).where(column > at)
            hurried += ledger.execute(later.values({column: at})).rowcount
        return hurried
