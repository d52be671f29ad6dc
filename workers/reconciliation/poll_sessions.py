"""A duty of the clock: sessions of which not everything is known, and that are silent, are read at the Drive API.

silent session -> [reconcile] -> Drive API -> healing -> ledger
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import partial

import structlog
from sqlalchemy import Connection

from workers.drive.client import DriveClient
from workers.drive.errors import DriveError, DriveUnavailable, NotFound, RateBudgetExhausted, Throttled, Unauthorized
from workers.execution.commit import PostCommit, run_post_commit
from workers.ledger import session_polls
from workers.ledger.database.transaction import run_in_transaction
from workers.ledger.poll_schedule import PollSchedule
from workers.ledger.session_polls import DuePoll
from workers.ledger.tables.reconciliation import PollOutcome
from workers.reconciliation.merge_drive import merge_drive_sessions, missed_poll
from workers.resilience.token_bucket import TokenBucket
from workers.resources import Resources

log = structlog.get_logger()
now = partial(datetime.now, UTC)

MARGIN = timedelta(seconds=30)
"""How much longer than one answer may take sessions are left to who reads them. If they die, others read them then."""

AT_ONCE = 50
"""Sessions claimed in one turn."""

SCAN_WINDOW = timedelta(hours=6)
"""How much of the past one transaction looks through at most, after the clock was away or new."""

SCAN_OVERLAP = timedelta(minutes=1)
"""What two looks have in common: a transaction may take as long from its first statement to its commit."""


class PollSilentSessions:
    """Reads the sessions that are due. What it has to do lies in the ledger, so a new clock goes on where one ended."""

    name = "reconcile"
    every = timedelta(seconds=2)

    def __init__(
        self, equipment: Resources, drive: DriveClient, allowance: TokenBucket, *, lease: timedelta | None = None
    ) -> None:
        self._equipment = equipment
        self._drive = drive
        self._allowance = allowance
        self._answer_takes = equipment.settings.drive_patience
        self._lease = self._answer_takes + MARGIN if lease is None else lease
        self._rhythm = PollSchedule.of(equipment.settings)
        self._enrolled_until: datetime | None = None

    def run(self) -> None:
        """Find sessions that have become silent, and read those that are due."""
        self._schedule()
        limit = min(self._allowance.available(), AT_ONCE)
        if limit == 0:
            return
        claimed = run_in_transaction(
            self._equipment.engine, lambda ledger: session_polls.claim(ledger, now(), self._lease, limit, self._rhythm)
        )
        healed = self._read_all(claimed)
        if healed:
            log.info("sessions.healed", sessions=healed, read=len(claimed))

    def _schedule(self) -> None:
        at = now()
        last = at - self._rhythm.after
        # A clock that was set back goes through the same times once more, and what happens then is news as well.
        since = min(self._enrolled_until or at - self._rhythm.give_up_after, last)
        while since < last:
            until = min(last, since + SCAN_WINDOW)
            self._enrol_between(since - SCAN_OVERLAP, until, at)
            since = self._enrolled_until = until
        self._enrolled_until = since

    def _enrol_between(self, since: datetime, until: datetime, at: datetime) -> None:
        run_in_transaction(self._equipment.engine, lambda ledger: session_polls.schedule(ledger, since, until, at))

    def _read_all(self, claimed: Sequence[DuePoll]) -> int:
        """Read what was claimed and return how many records changed. Raises what stops all reading."""
        healed = answers = 0
        unanswered: dict[DuePoll, str] = {}
        was_answered = True
        for number, each in enumerate(claimed):
            due = self._renew_lease(each)
            if due is None:
                continue
            try:
                self._allowance.consume(1)
                healed += self._read(due)
            except (DriveUnavailable, Unauthorized) as failure:
                is_its_own = (
                    was_answered and len(claimed) > 1 and not isinstance(failure, Throttled | RateBudgetExhausted)
                )
                if not is_its_own:
                    self._release([due, *claimed[number + 1 :]])
                    raise
                unanswered[due] = str(failure)
                was_answered = False
            else:
                answers += 1
                was_answered = True
        if answers:  # so it is about these alone; else they are left to their lease
            for due, reason in unanswered.items():
                self._record_miss(due, PollOutcome.FAILED, reason)
        return healed

    def _renew_lease(self, due: DuePoll) -> DuePoll | None:
        """Renew the lease of a session unless there is time for an answer; None if another clock has the session."""
        at = now()
        if due.claimed_until - at > self._answer_takes:
            return due
        return run_in_transaction(
            self._equipment.engine, lambda ledger: session_polls.renew(ledger, due, at + self._lease)
        )

    def _read(self, due: DuePoll) -> int:
        read_at = now()
        try:
            told = self._drive.session(due.user_id, due.session_id)
        except (DriveUnavailable, Unauthorized):
            raise
        except DriveError as failure:
            outcome = PollOutcome.MISSING if isinstance(failure, NotFound) else PollOutcome.FAILED
            self._record_miss(due, outcome, str(failure))
            return 0
        healing = run_in_transaction(
            self._equipment.engine,
            lambda ledger: merge_drive_sessions(ledger, due.user_id, [told], read_at, self._rhythm),
        )
        run_post_commit(self._equipment, PostCommit(offer=healing.wakes))
        return len(healing.changed)

    def _release(self, claimed: Sequence[DuePoll]) -> None:
        run_in_transaction(self._equipment.engine, lambda ledger: session_polls.release(ledger, claimed, now()))

    def _record_miss(self, due: DuePoll, outcome: PollOutcome, reason: str) -> None:
        def keep(ledger: Connection) -> None:
            before = session_polls.looks(ledger, [due.session_id]).get(due.session_id)
            if before is not None and before.next_at == due.claimed_until:  # else somebody else may have seen more
                session_polls.record(
                    ledger, {due.session_id: missed_poll(before, outcome, reason, self._rhythm)}, now()
                )

        run_in_transaction(self._equipment.engine, keep)
        if outcome is PollOutcome.FAILED:  # a wrong setting would have none be healed, and nobody would know
            log.warning("session.not_read", session=due.session_id, reason=reason)
