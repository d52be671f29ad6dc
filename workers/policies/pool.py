"""Pool of policy processes: each request goes to an idle one, and a process that is late is replaced.

request -> [pool] -> policy process -> policies -> result
"""

import asyncio
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import timedelta
from multiprocessing.forkserver import ensure_running

import structlog

from handlers.kit.policies import Policy
from ingest.authorize.decisions import EvaluatorStatus, FallbackReason, PolicyResult
from ingest.backoff import Backoff
from ingest.config.settings import Settings
from ingest.wire.authorization.request import AuthorizationRequest
from workers.policies.process_handle import FORK_SERVER, PRELOADED, PendingRequest, PolicyProcess
from workers.resilience.circuit_breaker import CircuitBreaker

log = structlog.get_logger()

# In seconds. A process starts a policy within a millisecond unless another policy blocks it: then a second process is
# asked as well (a hedged request).
HEDGE_AFTER = 0.1
START_TIMEOUT = 30.0
BACKOFF = Backoff(first=timedelta(milliseconds=100), longest=timedelta(seconds=5))
POLL_INTERVAL = 0.02
# An indeterminate result is not a failure of the policy: the next request may be another driver's.
COUNTED_FAILURES = (FallbackReason.TIMEOUT, FallbackReason.RAISED, FallbackReason.CRASHED)


class PolicyProcessPool:
    """Runs AUTHORIZE_PROCESSES policy processes, or none without policies: then no request has a decision.

    Belongs to one event loop, on which no policy ever runs.
    A thread cannot be killed, a process can: one whose policy hangs gets no more requests, has until their deadlines
    for those it has, and is killed. A new process replaces it meanwhile.
    """

    def __init__(
        self, settings: Settings, policies: Sequence[Policy], *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._settings = settings
        self._monotonic = monotonic
        self._policies = tuple(policy.name for policy in policies)
        self._breakers = PolicyBreakers(self._policies, monotonic)
        self._processes: list[PolicyProcess] = []
        self._slots: list[asyncio.Task[None]] = []
        self._draining: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Start the processes. A request that comes before one is ready waits for it until its deadline."""
        if not self._policies:
            return
        FORK_SERVER.set_forkserver_preload(PRELOADED)
        ensure_running()  # here, and not in a thread: the death signal comes when the thread that forked it ends
        self._slots = [asyncio.create_task(self._maintain_slot()) for _ in range(self._settings.authorize_processes)]

    async def stop(self) -> None:
        """Kill all processes at once."""
        for slot in self._slots:
            slot.cancel()
        await asyncio.gather(*self._slots, return_exceptions=True)
        await asyncio.gather(*self._draining, *(each.kill() for each in self._processes), return_exceptions=True)

    def status(self) -> EvaluatorStatus:
        """Return how many processes are available, and the policies whose breakers are open."""
        return EvaluatorStatus(len(self._slots), len(self._available()), self._breakers.open_policies())

    async def evaluate(self, request: AuthorizationRequest, deadline: float) -> PolicyResult:
        """Send the request to a process; to a second one, too, if no policy starts at once. The first result counts."""
        if not self._policies:
            return PolicyResult()
        skip, probed = self._breakers.acquire()
        if self._policies[0] in skip:  # a process would return the same
            self._breakers.record(PolicyResult(), (), probed)
            return PolicyResult(policy=self._policies[0], failure=FallbackReason.CIRCUIT_OPEN)
        attempts: dict[PendingRequest, PolicyProcess] = {}
        result = PolicyResult(failure=FallbackReason.CRASHED)
        try:
            result = await self._dispatch(request, skip, attempts, deadline) or self._failure(attempts)
        finally:
            self._breakers.record(result, [name for pending in attempts for name in pending.started], probed)
            for pending, process in attempts.items():
                process.cancel(pending)
        return result

    async def _dispatch(
        self,
        request: AuthorizationRequest,
        skip: frozenset[str],
        attempts: dict[PendingRequest, PolicyProcess],
        deadline: float,
    ) -> PolicyResult | None:
        while (process := self._idle_process(besides=attempts.values())) is None:
            if self._monotonic() >= deadline:
                return None
            await asyncio.sleep(POLL_INTERVAL)
        attempts[process.submit(request, skip)] = process
        result = await self._first_result(attempts, deadline, self._monotonic() + HEDGE_AFTER)
        if result is not None or self._monotonic() >= deadline:
            return result
        if all(pending.is_lost for pending in attempts):  # it died, perhaps of another request: try once more
            return await self._dispatch(request, skip, attempts, deadline) if len(attempts) == 1 else None
        other = self._idle_process(besides=attempts.values())
        if other is not None:
            attempts[other.submit(request, skip)] = other
        return await self._first_result(attempts, deadline, deadline)

    async def _first_result(
        self, attempts: dict[PendingRequest, PolicyProcess], deadline: float, start_deadline: float
    ) -> PolicyResult | None:
        """Return the first result; None at the deadline, or at `start_deadline` if no policy has started by then."""
        waiting = [pending.result for pending in attempts if not pending.result.done()]
        limit = start_deadline
        while waiting:
            left = limit - self._monotonic()
            if left <= 0:
                if limit >= deadline or not any(pending.started for pending in attempts):
                    return None
                limit = deadline
                continue
            done, _ = await asyncio.wait(waiting, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            for each in done:
                if each.exception() is None:
                    return each.result()
            waiting = [each for each in waiting if not each.done()]
        return None

    def _failure(self, attempts: dict[PendingRequest, PolicyProcess]) -> PolicyResult:
        """Return why there is no result, and drain the processes that were late."""
        policy = next((pending.started[-1] for pending in attempts if pending.started), None)
        late = [process for pending, process in attempts.items() if not pending.is_lost]
        for process in late:
            process.drain()
        if late:
            return PolicyResult(policy=policy, failure=FallbackReason.TIMEOUT)
        error = "ProcessDied" if attempts else "NoProcess"
        return PolicyResult(policy=policy, failure=FallbackReason.CRASHED, error=error)

    def _available(self) -> list[PolicyProcess]:
        return [process for process in self._processes if process.is_available]

    def _idle_process(self, besides: Collection[PolicyProcess]) -> PolicyProcess | None:
        candidates = (process for process in self._available() if process not in besides)
        return min(candidates, key=lambda process: process.load, default=None)

    async def _maintain_slot(self) -> None:
        """Run one process at a time, and replace it when it closes."""
        failed_starts = 0
        while True:
            process = PolicyProcess(self._settings)
            self._processes.append(process)
            is_ready = await process.start(START_TIMEOUT)
            if is_ready:
                failed_starts = 0
                log.info("policy_process.started")
                await process.closed
                log.warning("policy_process.replaced", died=process.is_dead)
            else:
                failed_starts += 1
                log.error("policy_process.start_failed", failures=failed_starts)
            self._processes.remove(process)
            task = asyncio.create_task(self._drain(process))
            self._draining.add(task)
            task.add_done_callback(self._draining.discard)
            if not is_ready:
                await asyncio.sleep(BACKOFF.delay(failed_starts).total_seconds())

    async def _drain(self, process: PolicyProcess) -> None:
        """Wait until a process has finished its pending requests, at most until their deadlines, then kill it."""
        until = self._monotonic() + self._settings.authorize_timeout.total_seconds()
        while process.load and self._monotonic() < until:  # noqa: ASYNC110 - nothing waits for it
            await asyncio.sleep(POLL_INTERVAL)
        await process.kill()


class PolicyBreakers:
    """Circuit breakers for policies: one that keeps failing is not called for a while. For one thread only."""

    def __init__(self, policies: Sequence[str], monotonic: Callable[[], float]) -> None:
        self._breakers = {name: CircuitBreaker(clock=monotonic) for name in policies}
        self._probing = dict.fromkeys(policies, 0)

    def open_policies(self) -> tuple[str, ...]:
        """Return the policies whose breakers are open."""
        return tuple(name for name, breaker in self._breakers.items() if breaker.is_open)

    def acquire(self) -> tuple[frozenset[str], frozenset[str]]:
        """Begin a request: return the policies to skip, and those for which it is the probe."""
        found = self.open_policies()
        probed = frozenset(
            name for name in found if self._breakers[name].permits(1, in_flight=self._probing[name]) == 1
        )
        for name in probed:
            self._probing[name] += 1
        return frozenset(found) - probed, probed

    def record(self, result: PolicyResult, started: Iterable[str], probed: Iterable[str]) -> None:
        """End a request: record its result for the policies that were called, and release its probes."""
        for name in probed:
            self._probing[name] -= 1
        failed = result.policy if result.failure in COUNTED_FAILURES else None
        for name in set(started) - {failed}:
            self._breakers[name].record_success()
        if failed is not None:
            breaker = self._breakers[failed]
            was_open = breaker.is_open
            breaker.record_failure()
            if breaker.is_open and not was_open:
                log.warning("policy.circuit_opened", policy=failed, failure=result.failure)
