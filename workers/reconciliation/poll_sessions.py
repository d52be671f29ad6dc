"""Poll at the Drive API the sessions that are incomplete and silent: a task of the clock.

silent session -> [poll] -> Drive API -> merge -> ledger
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import partial

import structlog
from sqlalchemy import Connection

from ingest.failpoints import Failpoint, hit
from ingest.telemetry.tracing import tracing
from ingest.wire.timestamps import utc_now
from workers.drive.client import DriveClient
from workers.drive.drive_errors import OUTAGES, RATE_LIMITED, DriveError, NotFound
from workers.execution.commit import PostCommit, run_post_commit
from workers.ledger import deliveries, session_polls
from workers.ledger.database.transaction import read_once, run_in_transaction
from workers.ledger.session_polls import DuePoll, PollSchedule
from workers.ledger.tables.reconciliation_tables import PollOutcome
from workers.observability.delivery_spans import record_poll
from workers.reconciliation.merge_drive import merge_drive_sessions, missed_poll
from workers.resilience.token_bucket import TokenBucket
from workers.resources import Resources

log = structlog.get_logger()

LEASE_MARGIN = timedelta(seconds=30)
"""How much longer than one response may take a lease lasts; when its holder dies, another clock polls after it."""

CLAIM_LIMIT = 50
"""Sessions claimed in one turn."""

SCAN_WINDOW = timedelta(hours=6)
"""The longest span that one transaction scans, after the clock was down or when it is new."""

SCAN_OVERLAP = timedelta(minutes=1)
"""How far two scans overlap: a transaction may take as long from its first statement to its commit."""


class PollSilentSessions:
    """Polls the sessions that are due. All of its state is in the ledger, so a new clock continues the work."""

    name = "reconcile"
    every = timedelta(seconds=2)

    def __init__(
        self, resources: Resources, drive: DriveClient, budget: TokenBucket, *, lease: timedelta | None = None
    ) -> None:
        self._resources = resources
        self._drive = drive
        self._budget = budget
        self._response_takes = resources.settings.drive_patience
        self._lease = self._response_takes + LEASE_MARGIN if lease is None else lease
        self._schedule = PollSchedule.of(resources.settings)
        self._plugins = resources.plugins
        self._scanned_until: datetime | None = None

    def run(self) -> None:
        """Schedule sessions that have become silent, and poll those that are due."""
        self._schedule_silent()
        limit = min(self._budget.available(), CLAIM_LIMIT)
        if limit == 0:
            return
        claimed = run_in_transaction(
            self._resources.engine,
            lambda ledger: session_polls.claim(ledger, utc_now(), self._lease, limit, self._schedule),
        )
        changed = self._poll_all(claimed)
        if changed:
            log.info("sessions.reconciled", sessions=changed, read=len(claimed))

    def _schedule_silent(self) -> None:
        at = utc_now()
        last = at - self._schedule.after
        # A clock that was set back scans the same times again, for there is news in them again.
        since = min(self._scanned_until or at - self._schedule.give_up_after, last)
        while since < last:
            until = min(last, since + SCAN_WINDOW)
            scan = partial(session_polls.schedule, since=since - SCAN_OVERLAP, until=until, now=at)
            run_in_transaction(self._resources.engine, scan)
            since = self._scanned_until = until
        self._scanned_until = since

    def _poll_all(self, claimed: Sequence[DuePoll]) -> int:
        """Poll the claimed sessions and return how many records changed; raise when the Drive API is unavailable.

        The failure of a single session is recorded as its own, once the Drive API has answered about another one.
        """
        changed = successes = 0
        failures: dict[DuePoll, str] = {}
        last_succeeded = True
        for number, each in enumerate(claimed):
            due = self._renew_lease(each)
            if due is None:
                continue
            try:
                self._budget.consume(1)
                changed += self._poll(due)
            except OUTAGES as failure:
                if isinstance(failure, RATE_LIMITED) or not last_succeeded or len(claimed) == 1:
                    unpolled = [due, *claimed[number + 1 :]]
                    run_in_transaction(
                        self._resources.engine, partial(session_polls.release, claimed=unpolled, now=utc_now())
                    )
                    raise
                failures[due] = str(failure)
                last_succeeded = False
            else:
                successes += 1
                last_succeeded = True
        if successes:  # else the lease of the failed ones runs out
            for due, reason in failures.items():
                self._record_miss(due, PollOutcome.FAILED, reason)
        return changed

    def _renew_lease(self, due: DuePoll) -> DuePoll | None:
        """Renew the lease if a response might outlast it; return None if another clock has claimed the session."""
        at = utc_now()
        if due.claimed_until - at > self._response_takes:
            return due
        return run_in_transaction(
            self._resources.engine, lambda ledger: session_polls.renew(ledger, due, at + self._lease)
        )

    def _poll(self, due: DuePoll) -> int:
        read_at = utc_now()
        try:
            found = self._drive.session(due.user_id, due.session_id)
        except OUTAGES as failure:
            self._trace(due, read_at, failure)
            raise
        except DriveError as failure:
            self._trace(due, read_at, failure)
            outcome = PollOutcome.MISSING if isinstance(failure, NotFound) else PollOutcome.FAILED
            self._record_miss(due, outcome, str(failure))
            return 0
        self._trace(due, read_at)
        result = run_in_transaction(
            self._resources.engine,
            lambda ledger: merge_drive_sessions(ledger, due.user_id, [found], read_at, self._schedule, self._plugins),
        )
        hit(Failpoint.HEALED)
        run_post_commit(self._resources, PostCommit(enqueue_runs=result.wakes))
        return len(result.changed)

    def _trace(self, due: DuePoll, began_at: datetime, failure: Exception | None = None) -> None:
        if not tracing.is_on:
            return
        of_session = deliveries.DeliveryFilters(session_id=due.session_id)
        for delivery_id in read_once(self._resources.engine, lambda ledger: deliveries.find_ids(ledger, of_session, 1)):
            error = None if failure is None else type(failure).__name__
            record_poll(delivery_id, due.attempts + 1, began_at, error)

    def _record_miss(self, due: DuePoll, outcome: PollOutcome, reason: str) -> None:
        def record(ledger: Connection) -> None:
            before = session_polls.states(ledger, [due.session_id]).get(due.session_id)
            if before is not None and before.next_at == due.claimed_until:  # else another clock may have seen more
                at = utc_now()
                miss = missed_poll(before, outcome, reason, self._schedule, at)
                session_polls.record(ledger, {due.session_id: miss}, at)

        run_in_transaction(self._resources.engine, record)
        if outcome is PollOutcome.FAILED:  # a wrong setting fails every session, and nothing else would show it
            log.warning("session.poll_failed", session=due.session_id, reason=reason)
