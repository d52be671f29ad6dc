"""The backoff of each recipient of a channel: one that cannot be reached waits, and nobody else does.

A recipient is a user, or a device where the channel sends to devices. This lives in memory: another process finds out
for itself at the price of one call each.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from handlers.kit.channel import PushFailed
from ingest.wire.timestamps import utc_now
from workers.ledger.pushes import PushRow
from workers.resilience.retry import RetryPolicy

SHORTEST_WAIT = timedelta(seconds=1)

SLOW_AFTER = timedelta(milliseconds=500)
"""A recipient has no further call while one of its calls has had no answer for so long."""

LONGEST_IN_OUTAGE = timedelta(seconds=5)
"""The longest wait while the provider fails: its circuit breaker decides when a push is tried."""

PATIENT_FAILURES = 3
"""So many calls in a row that were one too many make no wait longer: the pace may be at fault."""

MAX_RECIPIENTS = 10_000


@dataclass(frozen=True, slots=True)
class _Failure:
    """The latest failure of a recipient, and how many there were in a row."""

    failure: PushFailed
    at: datetime
    count: int
    delay: timedelta
    """The wait by the retry policy."""

    def retry_at(self, expires_at: datetime | None) -> datetime:
        """Return when a push that expires then may be tried again: more often the nearer the end comes."""
        after = self.failure.after or timedelta()
        if expires_at is None:
            return self.at + max(self.delay, after)
        wait = min(self.delay, max((expires_at - self.at) / 2, SHORTEST_WAIT))
        return min(self.at + max(wait, after), max(expires_at, self.at))


@dataclass(slots=True)
class _Recipient:
    failure: _Failure | None = None
    calls: list[float] = field(default_factory=list)
    """When the calls under way began."""


class RecipientBackoff:
    """Which recipients may be called. For several threads."""

    def __init__(
        self,
        policy: RetryPolicy,
        *,
        now: Callable[[], datetime] = utc_now,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._policy = policy
        self._now = now
        self._monotonic = monotonic
        self._recipients: dict[str, _Recipient] = {}
        self._lock = threading.Lock()
        self._is_outage = False

    def acquire(self, recipient: str, expires_at: datetime | None) -> datetime | None:
        """Begin a call and return None; or return when a push that expires then may be tried for this recipient."""
        with self._lock:
            found, now = self._recipients.setdefault(recipient, _Recipient()), self._now()
            if found.failure is not None:
                # After a step of the clock backwards a failure would be in the future.
                failure = replace(found.failure, at=now if found.calls else min(found.failure.at, now))
                retry_at = failure.retry_at(expires_at)
                if retry_at > now:
                    return retry_at
            elif found.calls and self._monotonic() - found.calls[0] > SLOW_AFTER.total_seconds():
                return now + SHORTEST_WAIT
            found.calls.append(self._monotonic())
            self._evict()
            return None

    def failures_of(self, recipient: str) -> tuple[PushFailed | None, int]:
        """Return the failure of its latest call, if that failed, and how many have failed in a row."""
        with self._lock:
            found = self._recipients.get(recipient)
            failure = None if found is None else found.failure
            return (None, 0) if failure is None else (failure.failure, failure.count)

    def release(self, recipient: str, failure: PushFailed | None, push: PushRow) -> datetime | None:
        """End a call; return when to retry a push for which it failed, None after the last attempt.

        A push that expires is retried until then, however often: a provider that fails for a minute must not cost a
        push that has minutes left.
        """
        with self._lock:
            found = self._recipients.setdefault(recipient, _Recipient())
            if found.calls:
                found.calls.pop(0)
            if failure is None or not failure.retryable:
                found.failure = None
                if not found.calls:
                    del self._recipients[recipient]
                return None
            count = found.failure.count + 1 if found.failure else 1
            if failure.throttled:
                delay = self._policy.delay(max(count - PATIENT_FAILURES, 1))
            else:  # the push may have failed in another process
                delay = self._policy.delay(max(count, push.attempts))
            if self._is_outage:
                delay = min(delay, LONGEST_IN_OUTAGE)
            found.failure = _Failure(failure, self._now(), count, delay)
            if push.expires_at is None and push.attempts % self._policy.attempts == 0:
                return None
            return found.failure.retry_at(push.expires_at)

    def set_outage(self, *, is_outage: bool) -> None:
        """Set whether the provider fails. At the end of an outage all failures are forgotten: they were not theirs."""
        with self._lock:
            self._is_outage = is_outage
            for found in () if is_outage else self._recipients.values():
                found.failure = None

    def _evict(self) -> None:
        if len(self._recipients) > MAX_RECIPIENTS:
            idle = next((key for key, found in self._recipients.items() if not found.calls), None)
            if idle is not None:
                del self._recipients[idle]
