"""Send the pushes that wait: claimed in one transaction, sent outside of any, marked in another.

The clock sends, not the workers: a provider that hangs holds up no queue, its connections and access tokens serve for
many pushes, and each channel has a thread of its own, so that it waits for no other. Workers only wake it.
"""

import threading
import time
from datetime import UTC, datetime, timedelta
from queue import Empty, SimpleQueue

import redis
import structlog
from sqlalchemy import Connection

from ingest.failpoints import Failpoint, hit
from workers.devices.lookup import Devices
from workers.ledger import devices, pushes
from workers.ledger.database.transaction import LedgerUnavailable, read_once, run_in_transaction
from workers.ledger.pushes import Claim, PushRow, PushUpdate
from workers.ledger.states import PushState
from workers.push.attempt import AttemptResult, attempt
from workers.push.notify import notify_senders, wait_for_notification
from workers.resilience.circuit_breaker import CircuitBreaker
from workers.resilience.periodic import SupervisedThreads
from workers.resilience.retry import RetryPolicy
from workers.resources import Resources

log = structlog.get_logger()

LOOK_EVERY = timedelta(seconds=1)
"""How long a push that nobody told of waits at most, and how often a channel left alone is looked at again."""

LEASE = timedelta(seconds=6)
"""How long a push is left to who claimed it and says nothing more of it. If they die, it is sent again after that.

Two clocks that disagree by more than this send each other's pushes that are on their way, with the same id.
"""

LEASE_RENEWAL = timedelta(seconds=2)
"""How often who has pushes in hand says so."""

SHORTEST_TIMEOUT = timedelta(seconds=1)


class ChannelSender:
    """Sends the pushes of one channel, several at once; use it from one thread."""

    def __init__(self, equipment: Resources, name: str, *, breaker: CircuitBreaker | None = None) -> None:
        self._equipment = equipment
        self._name = name
        self._channel = equipment.channels[name]
        self._devices_of = Devices.of(equipment.plugins, equipment.engine)
        self._breaker = breaker or CircuitBreaker()
        self._policy = RetryPolicy.of(equipment.settings)
        self._news: SimpleQueue[AttemptResult | Claim | None] = SimpleQueue()
        # A push is in hand until its ending is in the ledger. Its place is taken for longer, if a call hangs on.
        self._in_hand: set[Claim] = set()
        self._places_taken: set[Claim] = set()
        self._to_mark: list[AttemptResult] = []
        self._hold_at = 0.0

    def wake(self) -> None:
        """Look for pushes now; called from any thread."""
        self._news.put(None)

    def run(self, stop: threading.Event) -> None:
        """Send what comes until told to stop; then wait for what is on its way, as long as that may take."""
        away = False
        while not stop.is_set():
            try:
                self._claim()
                self._collect(LOOK_EVERY)
                away = False
            except LedgerUnavailable as failure:
                if not away:
                    log.warning("sender.waiting", channel=self._name, reason=str(failure))
                away = True
                stop.wait(LOOK_EVERY.total_seconds())
        self._finish()

    def send_due(self) -> int:
        """Send what is due now, wait for the answers, and return how many pushes were taken."""
        sent = self._collect(timedelta())
        while self._claim() or self._in_hand:
            sent += self._collect(LOOK_EVERY)
        return sent

    def _claim(self) -> int:
        """Claim and begin as many pushes as there is room for; end those that are not needed any more."""
        self._extend_leases()
        if not self._is_any_due():
            return 0
        settings = self._equipment.settings
        free = settings.push_concurrency - len(self._places_taken)
        room = self._breaker.permits(free, in_flight=len(self._in_hand))

        def claim(ledger: Connection) -> list[PushRow]:
            at = datetime.now(UTC)
            # Who had to wait for the ledger, or whose clock was set, would find here what is in hand.
            pushes.extend_lease(ledger, self._in_hand, at + LEASE)
            pushes.expire_unneeded(ledger, self._name, at)
            return pushes.claim(ledger, self._name, at, LEASE, limit=room)

        claimed = run_in_transaction(self._equipment.engine, claim)
        for push in claimed:
            self._in_hand.add(push.claim)
            self._places_taken.add(push.claim)
            threading.Thread(target=self._attempt, args=(push,), name=f"push-{self._name}", daemon=True).start()
        return len(claimed)

    def _extend_leases(self) -> None:
        """Keep what is in hand from being sent by others, for as long as it may take."""
        if self._in_hand and time.monotonic() >= self._hold_at:
            run_in_transaction(
                self._equipment.engine,
                lambda ledger: pushes.extend_lease(ledger, self._in_hand, datetime.now(UTC) + LEASE),
            )
            self._hold_at = time.monotonic() + LEASE_RENEWAL.total_seconds()

    def _is_any_due(self) -> bool:
        return read_once(
            self._equipment.engine, lambda ledger: pushes.is_any_due(ledger, self._name, datetime.now(UTC))
        )

    def _attempt(self, push: PushRow) -> None:
        """Make one attempt, in a thread of its own. Its place is free again when no call of it hangs any more."""
        try:
            timeout = self._equipment.settings.push_timeout
            if push.expires_at is not None:
                timeout = min(timeout, max(push.expires_at - datetime.now(UTC), SHORTEST_TIMEOUT))
            hit(Failpoint.SENDING)
            ending, calls = attempt(push, self._channel, self._devices_of, timeout, self._policy)
            hit(Failpoint.SENT)
            self._news.put(ending)
            for call in calls:
                call.join()
        finally:
            self._news.put(push.claim)

    def _collect(self, patience: timedelta) -> int:
        """Wait for news, mark all that have come, and return how many pushes were sent."""
        for news in self._wait_for_news(patience):
            if isinstance(news, AttemptResult):
                self._update_breaker(news)
                self._to_mark.append(news)
            elif news is not None:
                self._places_taken.discard(news)
                if all(ending.push.claim != news for ending in self._to_mark):
                    self._in_hand.discard(news)  # no ending will come, and nobody holds it any more
        if not self._to_mark:
            return 0
        run_in_transaction(self._equipment.engine, self._mark)
        hit(Failpoint.NOTED)
        sent = sum(ending.state is PushState.SENT for ending in self._to_mark)
        self._in_hand.difference_update(ending.push.claim for ending in self._to_mark)
        self._to_mark.clear()
        return sent

    def _wait_for_news(self, patience: timedelta) -> list[AttemptResult | Claim | None]:
        found: list[AttemptResult | Claim | None] = []
        try:
            found.append(self._news.get(timeout=patience.total_seconds()))
            while True:
                found.append(self._news.get_nowait())
        except Empty:
            return found

    def _update_breaker(self, ending: AttemptResult) -> None:
        was_open = self._breaker.is_open
        if ending.provider_error is not None:
            self._breaker.record_failure(ending.provider_error.after)
        elif ending.provider_called:
            self._breaker.record_success()
        if self._breaker.is_open is not was_open:
            log.warning("channel.left_alone" if self._breaker.is_open else "channel.resumed", channel=self._name)
        if ending.error is not None:
            log.warning("push.failed", push=ending.push.id, channel=self._name, state=ending.state, reason=ending.error)

    def _mark(self, ledger: Connection) -> None:
        pushes.mark(ledger, [_mark_of(ending) for ending in self._to_mark])
        devices.delete_tokens(ledger, [token for ending in self._to_mark for token in ending.unregistered])

    def _finish(self) -> None:
        until = time.monotonic() + self._equipment.settings.push_timeout.total_seconds()
        try:
            while self._in_hand and time.monotonic() < until:
                self._extend_leases()
                self._collect(LOOK_EVERY)
        except LedgerUnavailable as failure:
            log.warning("sender.waiting", channel=self._name, reason=str(failure))


def _mark_of(ending: AttemptResult) -> PushUpdate:
    return PushUpdate(
        id=ending.push.id,
        attempt=ending.push.attempts,
        state=ending.state,
        sent_at=ending.sent_at,
        due_at=ending.due_at,
        error=ending.error,
        told=ending.delivered or None,
    )


class SenderPool(SupervisedThreads):
    """A sender for each channel that PUSH names, each in a thread of its own, and one thread that wakes them."""

    def __init__(self, equipment: Resources) -> None:
        self._connection = equipment.connection
        self._senders = {name: ChannelSender(equipment, name) for name in equipment.channels}
        self._stop = threading.Event()
        super().__init__(
            [
                threading.Thread(target=self._listen, name="push-wakes", daemon=True),
                *(
                    threading.Thread(target=sender.run, args=(self._stop,), name=f"pushes-{name}", daemon=True)
                    for name, sender in self._senders.items()
                ),
            ]
        )

    def stop(self) -> None:
        """Claim nothing any more, and wait for the answers to what was sent."""
        self._stop.set()
        notify_senders(self._connection, self._senders)  # the thread that listens
        for sender in self._senders.values():
            sender.wake()
        self.join()

    def _listen(self) -> None:
        while not self._stop.is_set():
            try:
                name = wait_for_notification(self._connection, self._senders, LOOK_EVERY)
            except redis.RedisError:
                self._stop.wait(LOOK_EVERY.total_seconds())  # the senders look by themselves meanwhile
            else:
                if name is not None:
                    self._senders[name].wake()


def send_due(equipment: Resources) -> int:
    """Send what is due on every channel now, one after the other, and return how many pushes were taken."""
    return sum(ChannelSender(equipment, name).send_due() for name in equipment.channels)
