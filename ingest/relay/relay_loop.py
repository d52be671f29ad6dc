"""The leading relay's work, round by round: settle, offer or hold back, and offer again what was lost (the sweep).

A batch grows while its queue is full enough; nothing waits for a timer when it is not.
"""

import threading
import time
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

import redis

from ingest.config.settings import Settings
from ingest.inbox.downtime import DowntimePublisher
from ingest.queue.leases import JobState, LeaseMonitor
from ingest.queue.queues import QUEUES
from ingest.relay.outbox import Outbox
from ingest.relay.publisher import BatchPublisher

SWEEP_EVERY = timedelta(seconds=1)
FORGET_EVERY = timedelta(hours=1)
# With one job waiting behind each that is worked on, workers never starve; more would only cut batches smaller.
MAX_WAITING_JOBS = 2
# Seconds. The first two are the shortest and the longest time between rounds while Redis may have something to tell.
MIN_TICK = 0.01
MAX_TICK = 0.05
POLL = 0.05
PROBE_EVERY = 5.0


class RelayLoop:
    """What one leader does, from what the disk says when it begins.

    Its methods raise QueueUnavailable or sqlite3.Error; then begin anew, for what Redis has is no longer known.
    """

    def __init__(
        self, outbox: Outbox, connection: redis.Redis, settings: Settings, grace: timedelta, sweep_every: timedelta
    ) -> None:
        self.held = 0
        self.last_offer_at: datetime | None = None
        self._outbox = outbox
        self._settings = settings
        self._offers = BatchPublisher(outbox, connection, settings)
        self._watch = LeaseMonitor(connection, grace=grace)
        self._teller = DowntimePublisher(connection)
        self._sweep_every = sweep_every.total_seconds()
        self._swept_at = self._looked_at = float("-inf")
        self._version = 0
        self._holds_back = False
        self._has_more = False
        self._patience = MIN_TICK
        self._forget_at = time.monotonic()
        self._forget_after = ""

    def tick(self, *, linger: bool = True) -> None:
        """Settle, offer, and sweep if it is time."""
        self._version = self._outbox.data_version()
        waiting_since = {name: at for name in QUEUES if (at := self._outbox.oldest_waiting_at(name))}
        self._holds_back = self._has_more = False
        is_silent = time.monotonic() > self._looked_at + PROBE_EVERY
        if waiting_since or self._offers.is_waiting_for_workers or is_silent:
            depths = self._offers.poll()
            self._looked_at = time.monotonic()
            going = [
                name
                for name, at in waiting_since.items()
                if self._can_publish(name, at, depths.waiting[name], linger=linger)
            ]
            self._holds_back = len(going) < len(waiting_since)
            self._offer(going)
            self._patience = MIN_TICK if going or depths.settled else min(MAX_TICK, self._patience * 1.5)
        if time.monotonic() > self._swept_at + self._sweep_every:
            self._redeliver_lost()

    def wait(self, woken: threading.Event) -> None:
        """Wait until there may be something to do."""
        if self._has_more:
            return
        if self._holds_back:
            # Whatever is kept meanwhile only waits with the rest.
            time.sleep(self._patience)
            return
        is_busy = self._offers.is_waiting_for_workers
        if is_busy:
            time.sleep(MIN_TICK)
        until = time.monotonic() + (self._patience if is_busy else self._sweep_every)
        # Other processes that keep deliveries in this file cannot wake us; their commits show in its version.
        while (left := until - time.monotonic()) > 0 and not woken.wait(min(left, POLL)):
            if self._outbox.data_version() != self._version:
                return

    def drain(self, until: float) -> None:
        """Offer everything that waits, whatever waits on the queues already."""
        self.tick(linger=False)
        while self._has_more and time.monotonic() < until:
            self.tick(linger=False)
        self.held = self._outbox.waiting_count()

    def _can_publish(self, name: str, waiting_since: datetime, depth: int, *, linger: bool) -> bool:
        age = datetime.now(UTC) - waiting_since
        # An age below zero is a clock that was set back, and no reason to hold anything.
        is_young = timedelta() <= age < self._settings.hold_back
        is_held = linger and is_young and depth >= MAX_WAITING_JOBS
        return not is_held and self._offers.has_room(name)

    def _offer(self, names: Iterable[str]) -> None:
        loads = [
            self._outbox.next_batch(name, self._settings.batch_deliveries, self._settings.batch_bytes) for name in names
        ]
        if loads:
            self._offers.publish(loads)
            self.last_offer_at = datetime.now(UTC)
            self._has_more = any(load.is_full for load in loads)

    def _redeliver_lost(self) -> None:
        """Offer again what was lost; and what else is done now and then."""
        self._swept_at = time.monotonic()
        in_flight = self._offers.in_flight
        standings = self._watch.poll({each.batch_id: each.queue for each in in_flight})
        for each in in_flight:
            if (standing := standings[each.batch_id]) in {JobState.LOST, JobState.CRASHED}:
                self._offers.redeliver(each, died=standing is JobState.CRASHED)
        self.held = self._outbox.waiting_count()
        self._teller.publish(self._outbox.gaps())
        if self._swept_at > self._forget_at:
            self._prune_dedup_window()

    def _prune_dedup_window(self) -> None:
        """Forget a few of the oldest duplicates at a time, so that the door never waits long for the file."""
        before = datetime.now(UTC) - self._settings.duplicates_remembered
        after = self._outbox.prune_seen(before, after=self._forget_after)
        self._forget_after = after or ""
        if after is None:
            self._forget_at = time.monotonic() + FORGET_EVERY.total_seconds()
