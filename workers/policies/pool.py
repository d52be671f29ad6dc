"""The lane's judges: each question is put to one that is free, and a judge that is not done in time is replaced.

question -> [panel] -> judge -> policies -> ruling
"""

import asyncio
import time
from collections.abc import Callable, Collection, Sequence
from multiprocessing.forkserver import ensure_running

import structlog

from handlers.kit.policies import Policy
from ingest.authorize.decision_record import FallbackReason
from ingest.authorize.evaluator import EvaluatorStatus, PolicyResult
from ingest.config.settings import Settings
from ingest.wire.authorization.request import AuthorizationRequest
from workers.policies.breakers import PolicyBreakers
from workers.policies.process_handle import FORKS, PRELOADED, PendingRequest, PolicyProcess

log = structlog.get_logger()

# In seconds. A judge takes a question in a millisecond, unless a policy keeps it from that: then another one is asked.
HEDGE_AFTER = 0.1
READY_WITHIN = 30.0
FIRST_PAUSE = 0.1
LONGEST_PAUSE = 5.0
LOOK_EVERY = 0.02


class PolicyProcessPool:
    """Keeps AUTHORIZE_PROCESSES judges. Belongs to one event loop, on which no policy ever runs.

    A thread cannot be ended, a process can: a judge with a policy that hangs gets no more questions, has until their
    deadlines for those it has, and is killed. Meanwhile another one takes its seat.
    """

    def __init__(
        self, settings: Settings, policies: Sequence[Policy], *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._settings = settings
        self._monotonic = monotonic
        self._policies = tuple(policy.name for policy in policies)
        self._sparing = PolicyBreakers(self._policies, monotonic)
        self._seats: list[PolicyProcess] = []
        self._keepers: list[asyncio.Task[None]] = []
        self._leaving: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Begin to start the judges. Whoever asks before one is ready waits for it, as long as they have time."""
        FORKS.set_forkserver_preload(PRELOADED)
        ensure_running()  # here, not in a thread of a seat's: the kernel ends it with the thread that has started it
        self._keepers = [asyncio.create_task(self._maintain_slot()) for _ in range(self._settings.authorize_processes)]

    async def stop(self) -> None:
        """End all judges at once."""
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)
        await asyncio.gather(*self._leaving, *(seat.end() for seat in self._seats), return_exceptions=True)

    def status(self) -> EvaluatorStatus:
        """Say how many judges can be asked, and which policies are not."""
        return EvaluatorStatus(len(self._keepers), len(self._free()), self._sparing.open_policies())

    async def evaluate(self, question: AuthorizationRequest, until: float) -> PolicyResult:
        """Put the question to a judge; to another one, too, if it is not taken at once. The first ruling counts."""
        spared, probed = self._sparing.acquire()
        if self._policies[0] in spared:  # what a judge would say is known
            self._sparing.record(PolicyResult(), (), probed)
            return PolicyResult(policy=self._policies[0], failure=FallbackReason.CIRCUIT_OPEN)
        cases: dict[PendingRequest, PolicyProcess] = {}
        ruling = PolicyResult(failure=FallbackReason.CRASHED)
        try:
            ruling = await self._dispatch(question, spared, cases, until) or self._failed(cases)
        finally:
            self._sparing.record(ruling, [name for case in cases for name in case.begun], probed)
            for case, seat in cases.items():
                seat.cancel(case)
        return ruling

    async def _dispatch(
        self,
        question: AuthorizationRequest,
        spared: frozenset[str],
        cases: dict[PendingRequest, PolicyProcess],
        until: float,
    ) -> PolicyResult | None:
        while (seat := self._idle_process(besides=cases.values())) is None:
            if self._monotonic() >= until:
                return None
            await asyncio.sleep(LOOK_EVERY)
        cases[seat.submit(question, spared)] = seat
        ruling = await self._first_result(cases, until, self._monotonic() + HEDGE_AFTER)
        if ruling is not None or self._monotonic() >= until:
            return ruling
        if all(case.is_lost for case in cases):  # it died, perhaps of another question: ask once more
            return await self._dispatch(question, spared, cases, until) if len(cases) == 1 else None
        other = self._idle_process(besides=cases.values())
        if other is not None:
            cases[other.submit(question, spared)] = other
        return await self._first_result(cases, until, until)

    async def _first_result(
        self, cases: dict[PendingRequest, PolicyProcess], until: float, taken_until: float
    ) -> PolicyResult | None:
        """Wait for the first ruling; for no longer than `taken_until` if no policy has been asked by then."""
        waiting = [case.ruling for case in cases if not case.ruling.done()]
        limit = taken_until
        while waiting:
            left = limit - self._monotonic()
            if left <= 0:
                if limit >= until or not any(case.begun for case in cases):
                    return None
                limit = until
                continue
            done, _ = await asyncio.wait(waiting, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            for each in done:
                if each.exception() is None:
                    return each.result()
            waiting = [each for each in waiting if not each.done()]
        return None

    def _failed(self, cases: dict[PendingRequest, PolicyProcess]) -> PolicyResult:
        """Say what went wrong, and send away the judges with whom it did."""
        policy = next((case.begun[-1] for case in cases if case.begun), None)
        late = [seat for case, seat in cases.items() if not case.is_lost]
        for seat in late:
            seat.drain()
        if late:
            return PolicyResult(policy=policy, failure=FallbackReason.TIMEOUT)
        return PolicyResult(policy=policy, failure=FallbackReason.CRASHED, error="JudgeGone" if cases else "NoJudge")

    def _free(self) -> list[PolicyProcess]:
        return [seat for seat in self._seats if seat.is_free]

    def _idle_process(self, besides: Collection[PolicyProcess]) -> PolicyProcess | None:
        return min((seat for seat in self._free() if seat not in besides), key=lambda seat: seat.load, default=None)

    async def _maintain_slot(self) -> None:
        """Keep one seat taken."""
        pause = FIRST_PAUSE
        while True:
            seat = PolicyProcess(self._settings)
            self._seats.append(seat)
            is_ready = await seat.start(READY_WITHIN)
            if is_ready:
                pause = FIRST_PAUSE
                log.info("judge.started")
                await seat.closed
                log.warning("judge.replaced", died=seat.is_gone)
            else:
                log.error("judge.not_started", tried_again_in=pause)
            self._seats.remove(seat)
            task = asyncio.create_task(self._drain(seat))
            self._leaving.add(task)
            task.add_done_callback(self._leaving.discard)
            if not is_ready:
                await asyncio.sleep(pause)
                pause = min(pause * 2, LONGEST_PAUSE)

    async def _drain(self, seat: PolicyProcess) -> None:
        """Let a judge answer what it still has, then end it."""
        until = self._monotonic() + self._settings.authorize_timeout.total_seconds()
        while seat.load and self._monotonic() < until:  # noqa: ASYNC110 - nobody waits for it
            await asyncio.sleep(LOOK_EVERY)
        await seat.end()
