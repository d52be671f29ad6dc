"""Sends waiting pushes: claimed in one transaction, sent outside of any, marked in another.

The clock sends, not the workers: a provider that hangs blocks no queue, and connections and access tokens serve many
pushes. Each channel has a thread of its own, so that none waits for another. Workers only notify it.
"""

import math
import threading
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from queue import Empty, SimpleQueue

import redis
import structlog
from sqlalchemy import Connection

from ingest.failpoints import Failpoint, hit
from workers.devices.lookup import Devices
from workers.ledger import deliveries, devices, pushes
from workers.ledger.database.transaction import LedgerUnavailable, read_once, run_in_transaction
from workers.ledger.pushes import Claim, PushRow, PushUpdate
from workers.ledger.states import PushState
from workers.observability import work_metrics
from workers.observability.delivery_spans import record_push
from workers.push.attempt import AttemptResult, attempt
from workers.push.flow_control import FlowControl
from workers.push.notify import notify_senders, wait_for_notification
from workers.push.recipient_backoff import RecipientBackoff
from workers.resilience.periodic import SupervisedThreads
from workers.resilience.retry import RetryPolicy
from workers.resources import Resources

log = structlog.get_logger()

POLL_INTERVAL = timedelta(seconds=1)
SWEEP_PAUSE = 20
"""How many times as long as it took the next look for unneeded pushes waits: of 100,000 due ones it takes 0.2 s."""
"""The longest that a push without a notification waits, and how often a channel with an open breaker is tried."""

LEASE = timedelta(seconds=6)
"""How long a claimed push is left to its sender without a renewal. If the sender dies, it is sent again after that.

Two clocks that disagree by more than this send each other's pushes that are on their way, with the same id.
"""

LEASE_RENEWAL = timedelta(seconds=2)

SHORTEST_TIMEOUT = timedelta(seconds=1)

LIMITED_POLL = timedelta(milliseconds=50)
"""How soon more is claimed where flow control left something over."""


class ChannelSender:
    """Sends the pushes of one channel, several at once; for one thread."""

    def __init__(self, resources: Resources, name: str, *, flow: FlowControl | None = None) -> None:
        self._resources = resources
        self._name = name
        self._channel = resources.channels[name]
        self._devices_of = Devices(resources.engine, resources.plugins.devices, resources.settings.devices_per_user)
        self._flow = flow or FlowControl(resources.settings.push_concurrency)
        self._recipients = RecipientBackoff(RetryPolicy.of(resources.settings))
        self._was_open = False
        # From the threads of the attempts: a result, or a claim whose calls have all returned. None only wakes.
        self._inbound: SimpleQueue[AttemptResult | Claim | None] = SimpleQueue()
        # A push is in flight until its result is in the ledger. Its slot is taken for longer if a call hangs.
        self._in_flight: set[Claim] = set()
        self._to_mark: list[AttemptResult] = []
        self._renew_at = 0.0
        self._sweep_at = -math.inf
        self._is_limited = False

    def wake(self) -> None:
        """Poll for pushes now; called from any thread."""
        self._inbound.put(None)

    def run(self, stop: threading.Event) -> None:
        """Send what is due until the event is set; then wait up to PUSH_TIMEOUT for pushes in flight."""
        is_unavailable = False
        while not stop.is_set():
            try:
                self._claim()
                self._collect(LIMITED_POLL if self._is_limited else POLL_INTERVAL)
                is_unavailable = False
            except LedgerUnavailable as error:
                if not is_unavailable:
                    self._log_failure(error)
                is_unavailable = True
                stop.wait(POLL_INTERVAL.total_seconds())
        self._finish()

    def send_due(self) -> int:
        """Send what is due now, wait for the results, and return how many pushes were sent."""
        sent = self._collect(timedelta())
        while self._claim() or self._in_flight:
            sent += self._collect(POLL_INTERVAL)
        return sent

    def _claim(self) -> int:
        """Claim and start as many pushes as flow control permits; expire those that are not needed any more."""
        self._extend_leases()
        self._is_limited = False
        engine = self._resources.engine
        if not read_once(engine, lambda ledger: pushes.is_any_due(ledger, self._name, datetime.now(UTC))):
            return 0
        allowed = self._flow.limits()
        is_sweep_due = time.monotonic() >= self._sweep_at
        self._is_limited = not self._flow.is_open
        if not allowed.limit and not is_sweep_due:
            return 0

        def claim(ledger: Connection) -> tuple[list[PushRow], Mapping[PushState, int]]:
            at = datetime.now(UTC)
            # After a long wait for the ledger, or a step of the clock, the claim would find what is in flight here.
            pushes.extend_lease(ledger, self._in_flight, at + LEASE)
            ended = self._sweep(ledger, at) if is_sweep_due else {}
            claimed = pushes.claim(
                ledger,
                self._name,
                at,
                LEASE,
                limit=allowed.limit,
                failing=allowed.failing,
                attempts=allowed.attempts,
            )
            return claimed, ended

        claimed, ended = run_in_transaction(engine, claim)
        for state, number in ended.items():
            work_metrics.count_pushes(self._name, state, number)
        self._is_limited = self._is_limited and len(claimed) == allowed.limit
        for push in claimed:
            self._in_flight.add(push.claim)
            self._flow.begin(push.claim)
            threading.Thread(target=self._attempt, args=(push,), name=f"push-{self._name}", daemon=True).start()
        return len(claimed)

    def _sweep(self, ledger: Connection, at: datetime) -> Mapping[PushState, int]:
        """End the pushes that are not needed any more; a claim leaves them out anyway."""
        began_at = time.monotonic()
        ended = pushes.expire_unneeded(ledger, self._name, at)
        now = time.monotonic()
        self._sweep_at = now + max(POLL_INTERVAL.total_seconds(), SWEEP_PAUSE * (now - began_at))
        return ended

    def _extend_leases(self) -> None:
        """Renew the leases of pushes in flight every LEASE_RENEWAL."""
        if self._in_flight and time.monotonic() >= self._renew_at:
            run_in_transaction(
                self._resources.engine,
                lambda ledger: pushes.extend_lease(ledger, self._in_flight, datetime.now(UTC) + LEASE),
            )
            self._renew_at = time.monotonic() + LEASE_RENEWAL.total_seconds()

    def _attempt(self, push: PushRow) -> None:
        """Make one attempt, in a thread of its own. Its slot is free again when none of its calls hangs any more."""
        try:
            timeout = self._resources.settings.push_timeout
            if push.expires_at is not None:
                timeout = min(timeout, max(push.expires_at - datetime.now(UTC), SHORTEST_TIMEOUT))
            hit(Failpoint.SENDING)
            began_at = datetime.now(UTC)
            result, calls = attempt(push, self._channel, self._devices_of, timeout, self._recipients)
            hit(Failpoint.SENT)
            record_push(push, result.state, began_at)
            self._inbound.put(result)
            for call in calls:
                call.join()
        finally:
            self._inbound.put(push.claim)

    def _collect(self, timeout: timedelta) -> int:
        """Wait for results, mark all that have come, and return how many pushes were sent."""
        for item in self._wait(timeout):
            if isinstance(item, AttemptResult):
                self._record(item)
                self._to_mark.append(item)
            elif item is not None:
                self._flow.end(item)
                if all(result.push.claim != item for result in self._to_mark):
                    self._in_flight.discard(item)  # the attempt broke: no result will come
        if not self._to_mark:
            return 0
        received_at = run_in_transaction(self._resources.engine, self._mark)
        self._count(received_at)
        hit(Failpoint.RECORDED)
        sent = sum(result.state is PushState.SENT for result in self._to_mark)
        self._in_flight.difference_update(result.push.claim for result in self._to_mark)
        self._to_mark.clear()
        return sent

    def _wait(self, timeout: timedelta) -> list[AttemptResult | Claim | None]:
        found: list[AttemptResult | Claim | None] = []
        try:
            found.append(self._inbound.get(timeout=timeout.total_seconds()))
            while True:
                found.append(self._inbound.get_nowait())
        except Empty:
            return found

    def _record(self, result: AttemptResult) -> None:
        """Record the provider's answers."""
        for answer in result.answers:
            self._flow.record(answer)
        if self._flow.is_open is not self._was_open:
            self._was_open = self._flow.is_open
            log.warning("channel.circuit_opened" if self._was_open else "channel.resumed", channel=self._name)
            self._recipients.set_outage(is_outage=self._was_open)
        if any(answer.failure for answer in result.answers):
            log.warning("push.failed", push=result.push.id, channel=self._name, state=result.state, reason=result.error)

    def _mark(self, ledger: Connection) -> dict[str, datetime]:
        """Record the results, and return when the deliveries of pushes that were sent had been received."""
        pushes.mark(ledger, [_update_of(result) for result in self._to_mark])
        devices.delete_tokens(ledger, [token for result in self._to_mark for token in result.unregistered])
        sent = {result.push.delivery_id for result in self._to_mark if result.state is PushState.SENT}
        return deliveries.received_at(ledger, sent) if sent else {}

    def _count(self, received_at: Mapping[str, datetime]) -> None:
        for result in self._to_mark:
            if result.state is not PushState.WAITING:
                work_metrics.count_pushes(self._name, result.state)
            at = received_at.get(result.push.delivery_id)
            if result.sent_at is not None and at is not None:
                work_metrics.count_sent(self._name, at, result.sent_at)

    def _finish(self) -> None:
        deadline = time.monotonic() + self._resources.settings.push_timeout.total_seconds()
        try:
            while self._in_flight and time.monotonic() < deadline:
                self._extend_leases()
                self._collect(POLL_INTERVAL)
        except LedgerUnavailable as error:
            self._log_failure(error)

    def _log_failure(self, error: LedgerUnavailable) -> None:
        log.warning("sender.failed", channel=self._name, reason=str(error))


def _update_of(result: AttemptResult) -> PushUpdate:
    return PushUpdate(
        id=result.push.id,
        attempt=result.push.attempts,
        state=result.state,
        sent_at=result.sent_at,
        due_at=result.due_at,
        error=result.error,
        told=result.delivered or None,
    )


class SenderPool(SupervisedThreads):
    """A sender thread for each channel that PUSH names, and one thread that waits for notifications."""

    def __init__(self, resources: Resources) -> None:
        self._connection = resources.connection
        self._senders = {name: ChannelSender(resources, name) for name in resources.channels}
        self._stop = threading.Event()
        super().__init__(
            [
                threading.Thread(target=self._listen, name="push-notifications", daemon=True),
                *(
                    threading.Thread(target=sender.run, args=(self._stop,), name=f"pushes-{name}", daemon=True)
                    for name, sender in self._senders.items()
                ),
            ]
        )

    def stop(self) -> None:
        """Claim nothing any more, and wait for the results of what is in flight."""
        self._stop.set()
        notify_senders(self._connection, self._senders)  # for the thread that listens
        for sender in self._senders.values():
            sender.wake()
        self.join()

    def _listen(self) -> None:
        while not self._stop.is_set():
            try:
                name = wait_for_notification(self._connection, self._senders, POLL_INTERVAL)
            except redis.RedisError:
                self._stop.wait(POLL_INTERVAL.total_seconds())  # the senders poll meanwhile
            else:
                if name is not None:
                    self._senders[name].wake()


def send_due(resources: Resources) -> int:
    """Send what is due on every channel now, one after the other, and return how many pushes were sent."""
    return sum(ChannelSender(resources, name).send_due() for name in resources.channels)
