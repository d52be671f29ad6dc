"""The loop of the relay that leads: each tick settles, publishes or lingers, and redelivers lost batches.

request -> envelope -> inbox -> [relay] -> jobs -> handler -> ledger

Deliveries linger, and their batch grows, only while enough jobs wait on their queue (Kafka's linger, by load).
"""

import threading
import time
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

import redis

from ingest.config.settings import Settings
from ingest.inbox.schema import FILE_NAME
from ingest.queue.leases import JobState, LeaseMonitor
from ingest.queue.queues import QUEUES
from ingest.relay.downtime_publisher import DowntimePublisher
from ingest.relay.inbox_erasure import InboxErasure
from ingest.relay.outbox import Outbox
from ingest.relay.publisher import BatchPublisher
from ingest.relay.relay_heartbeat import RelayHeartbeat

SWEEP_EVERY = timedelta(seconds=1)
PRUNE_EVERY = timedelta(hours=1)
# Workers do not starve while one job waits behind each that runs; more jobs would only mean smaller batches.
MAX_WAITING_JOBS = 2
# Seconds. The first two bound the time between ticks while acknowledgements may arrive.
MIN_TICK = 0.01
MAX_TICK = 0.05
POLL = 0.05
PROBE_EVERY = 5.0


class RelayLoop:
    """The state of one leader, which starts from the disk.

    The methods raise QueueUnavailable or sqlite3.Error. Then a new loop is needed, as the state of Redis is unknown.
    """

    def __init__(
        self, outbox: Outbox, connection: redis.Redis, settings: Settings, grace: timedelta, sweep_every: timedelta
    ) -> None:
        self.backlog = 0
        self.last_published_at: datetime | None = None
        self._outbox = outbox
        self._settings = settings
        self._publisher = BatchPublisher(outbox, connection, settings)
        self._leases = LeaseMonitor(connection, grace=grace)
        self._downtimes = DowntimePublisher(connection)
        self._heartbeat = RelayHeartbeat(outbox, connection)
        self._erasure = InboxErasure(settings.data_dir / FILE_NAME, outbox.inbox_id, connection)
        self._sweep_every = sweep_every.total_seconds()
        self._swept_at = self._polled_at = float("-inf")
        self._version = 0
        self._is_lingering = False
        self._has_more = False
        self._pause = MIN_TICK
        self._prune_at = time.monotonic()
        self._prune_after = ""

    def tick(self, *, linger: bool = True) -> None:
        """Settle, publish, and sweep if it is time."""
        self._version = self._outbox.data_version()
        waiting_since = {name: at for name in QUEUES if (at := self._outbox.oldest_waiting_at(name))}
        self._is_lingering = self._has_more = False
        is_stale = time.monotonic() > self._polled_at + PROBE_EVERY
        if waiting_since or self._publisher.is_waiting_for_workers or is_stale:
            depths = self._publisher.poll()
            self._polled_at = time.monotonic()
            ready = [
                name
                for name, at in waiting_since.items()
                if self._can_publish(name, at, depths.waiting[name], linger=linger)
            ]
            self._is_lingering = len(ready) < len(waiting_since)
            self._publish(ready)
            self._pause = MIN_TICK if ready or depths.settled else min(MAX_TICK, self._pause * 1.5)
        if time.monotonic() > self._swept_at + self._sweep_every:
            self._redeliver_lost()

    def wait(self, woken: threading.Event) -> None:
        """Wait until the next tick may have something to do."""
        if self._has_more:
            return
        if self._is_lingering:
            # Deliveries that arrive meanwhile would only linger too.
            time.sleep(self._pause)
            return
        is_busy = self._publisher.is_waiting_for_workers
        if is_busy:
            time.sleep(MIN_TICK)
        until = time.monotonic() + (self._pause if is_busy else self._sweep_every)
        # Other processes that insert into this file cannot set the event; their commits change its version.
        while (left := until - time.monotonic()) > 0 and not woken.wait(min(left, POLL)):
            if self._outbox.data_version() != self._version:
                return

    def drain(self, until: float) -> None:
        """Publish everything that waits, without lingering."""
        self.tick(linger=False)
        while self._has_more and time.monotonic() < until:
            self.tick(linger=False)
        self.backlog = self._outbox.waiting_count()
        self._heartbeat.stop()

    def _can_publish(self, name: str, waiting_since: datetime, depth: int, *, linger: bool) -> bool:
        age = datetime.now(UTC) - waiting_since
        # A negative age means that the clock was set back, and is no reason to linger.
        is_young = timedelta() <= age < self._settings.hold_back
        lingers = linger and is_young and depth >= MAX_WAITING_JOBS
        return not lingers and self._publisher.has_room(name)

    def _publish(self, names: Iterable[str]) -> None:
        slices = [
            self._outbox.next_batch(name, self._settings.batch_deliveries, self._settings.batch_bytes) for name in names
        ]
        if slices:
            self._publisher.publish(slices)
            self.last_published_at = datetime.now(UTC)
            self._has_more = any(rows.is_full for rows in slices)

    def _redeliver_lost(self) -> None:
        """Redeliver lost batches, publish downtimes, and prune now and then."""
        self._swept_at = time.monotonic()
        in_flight = self._publisher.in_flight
        states = self._leases.poll({each.batch_id: each.queue for each in in_flight})
        for each in in_flight:
            if (state := states[each.batch_id]) in {JobState.LOST, JobState.CRASHED}:
                self._publisher.redeliver(each, died=state is JobState.CRASHED)
        self.backlog = self._outbox.waiting_count()
        self._downtimes.publish(self._outbox.downtimes())
        self._heartbeat.beat(erasure_since=self._erasure.open_since)
        self._erasure.poll()
        if self._swept_at > self._prune_at:
            self._prune_dedup_window()

    def _prune_dedup_window(self) -> None:
        """Delete a few expired ids of `seen`, so that the inbox never waits long for the lock."""
        before = datetime.now(UTC) - self._settings.duplicates_remembered
        after = self._outbox.prune_seen(before, after=self._prune_after)
        self._prune_after = after or ""
        if after is None:
            self._prune_at = time.monotonic() + PRUNE_EVERY.total_seconds()
