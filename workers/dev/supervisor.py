"""Keep children running side by side: one that dies is started again, and at the end none is left behind."""

import asyncio
import signal
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from datetime import timedelta

from ingest.backoff import Backoff
from workers.dev.child_process import ChildProcess, ProcessSpec

BACKOFF = Backoff(first=timedelta(milliseconds=200), longest=timedelta(seconds=5))

# A child that ends by itself sooner than this has failed at its start.
STABLE_AFTER = timedelta(seconds=5)
FAILED_STARTS = 5

READY_WITHIN = timedelta(seconds=15)
LOOK_EVERY = timedelta(milliseconds=50)

OWN_NAME = "dev"
FAILED = 1
# The exit code of our commands for wrong usage or settings: another start mends neither.
WRONG_USAGE = 2


class ChildFailedError(Exception):
    """Raised when a child cannot be started; it says what the child said last."""

    def __init__(self, child: ProcessSpec, life: ChildProcess, exit_code: int) -> None:
        """Say what the exit code of the whole becomes."""
        super().__init__(f"{child.name} does not start: {life.last_line or exit_text(exit_code)}")
        self.exit_code = WRONG_USAGE if exit_code == WRONG_USAGE else FAILED


class Supervisor:
    """The parent of some children, who keeps them running.

    Not honcho's manager: that one ends all children as soon as one ends, which makes an outage of a crash.
    """

    def __init__(
        self, children: Sequence[ProcessSpec], environment: Mapping[str, str], say: Callable[[str, str], None]
    ) -> None:
        """Take the children in the order of their start; `say(name, line)` hears what they print and how they fare."""
        self._children = children
        self._environment = environment
        self._say = say
        self._lives: dict[str, ChildProcess] = {}
        self._tasks: list[asyncio.Task[None]] = []

    async def run(self, scenario: Callable[[], Awaitable[int | None]]) -> int:
        """Keep the children until a signal asks for the end (0) or `story` returns an exit code.

        The story begins when all children have been started; without an exit code it lets them run on.
        They are ended in reverse order, one after the other. A second signal kills them at once.
        Raises ChildFailedError when one fails at every start. However it ends, no child is left.
        """
        loop = asyncio.get_running_loop()
        self._verdict: asyncio.Future[int] = loop.create_future()
        loop.add_signal_handler(signal.SIGCHLD, self._look)
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._asked_to_end)
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as nohup asks
            loop.add_signal_handler(signal.SIGHUP, self._asked_to_end)
        self._start(self._start_all(scenario))
        try:
            return await self._verdict
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(self._tasks)
            for child in reversed(self._children):
                if child.name in self._lives:
                    await self._lives[child.name].end()

    async def _start_all(self, scenario: Callable[[], Awaitable[int | None]]) -> None:
        for child in self._children:
            self._start(self._run_child(child))
            await self._until_ready(child)
        exit_code = await scenario()
        if exit_code is not None and not self._verdict.done():
            self._verdict.set_result(exit_code)

    async def _run_child(self, child: ProcessSpec) -> None:
        failed_starts = deaths = 0
        while True:
            life = self._lives[child.name] = ChildProcess(child, self._environment, self._say)
            exit_code = await asyncio.shield(life.ended)
            if life.age > STABLE_AFTER:
                failed_starts = deaths = 0
            elif exit_code >= 0:  # not by a signal: someone who kills it wants to see it come back
                failed_starts += 1
            if exit_code == WRONG_USAGE or failed_starts == FAILED_STARTS:
                raise ChildFailedError(child, life, exit_code)
            deaths += 1
            pause = BACKOFF.delay(deaths, jitter=0).total_seconds()
            self._say(child.name, f"{exit_text(exit_code)}; started again in {pause:.1f} s")
            await asyncio.sleep(pause)

    async def _until_ready(self, child: ProcessSpec) -> None:
        # One that is not ready in time is started again like any other, when it ends; the next ones can wait no longer.
        loop = asyncio.get_running_loop()
        deadline = loop.time() + READY_WITHIN.total_seconds()
        while loop.time() < deadline and not await asyncio.to_thread(child.is_ready):  # noqa: ASYNC110  the condition is in another process
            await asyncio.sleep(LOOK_EVERY.total_seconds())

    def _start(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        task.add_done_callback(self._failed)
        self._tasks.append(task)

    def _failed(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None and not self._verdict.done():
            self._verdict.set_exception(error)

    def _look(self) -> None:
        for life in self._lives.values():
            life.look()

    def _asked_to_end(self) -> None:
        if not self._verdict.done():
            self._say(OWN_NAME, "ending all, one after the other; a second Ctrl-C ends them at once")
            self._verdict.set_result(0)
            return
        for life in self._lives.values():
            life.kill()


def exit_text(exit_code: int) -> str:
    """Say how a process ended."""
    if exit_code >= 0:
        return f"ended with exit code {exit_code}"
    return f"was ended by {signal.Signals(-exit_code).name}"
