"""Supervises child processes: restarts one that dies, and leaves none behind at the end."""

import asyncio
import signal
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from datetime import timedelta

from ingest.backoff import Backoff
from workers.dev.child_process import ChildProcess, ProcessSpec

BACKOFF = Backoff(first=timedelta(milliseconds=200), longest=timedelta(seconds=5))

# A child that ends by itself sooner than this has failed to start.
STABLE_AFTER = timedelta(seconds=5)
FAILED_STARTS = 5

READY_TIMEOUT = timedelta(seconds=15)
POLL_INTERVAL = timedelta(milliseconds=50)

OWN_NAME = "dev"
FAILED = 1
# The exit code of our commands for wrong usage or settings: a restart would not help.
WRONG_USAGE = 2


class ChildFailedError(Exception):
    """Raised when a child cannot be started; the sentence ends with its last line."""

    def __init__(self, spec: ProcessSpec, child: ChildProcess, exit_code: int) -> None:
        reason = child.last_line.removeprefix("webhooks: ") if child.last_line else exit_text(exit_code)
        super().__init__(f"{spec.name} does not start: {reason}")
        self.exit_code = WRONG_USAGE if exit_code == WRONG_USAGE else FAILED


class ChildSupervisor:
    """The parent of some processes, which it keeps running.

    Unlike honcho's manager, it does not end all of them when one ends.
    """

    def __init__(
        self,
        specs: Sequence[ProcessSpec],
        environment: Mapping[str, str] | None,
        print_line: Callable[[str, str], None],
    ) -> None:
        """Set the processes, in the order of their start; `print_line(name, line)` is called for their output."""
        self._specs = specs
        self._environment = environment
        self._print_line = print_line
        self._children: dict[str, ChildProcess] = {}
        self._reloaded: dict[str, asyncio.Event] = {}
        self._tasks: list[asyncio.Task[None]] = []

    async def run(self, scenario: Callable[[], Awaitable[int | None]]) -> int:
        """Run the processes until a signal (0) or until the scenario returns an exit code, and return that.

        The scenario is run when all are started; without an exit code it lets them go on. They are stopped together,
        those that outlive the others after them; a second signal kills all. Raises ChildFailedError when one fails at
        every start. No child is left.
        """
        loop = asyncio.get_running_loop()
        self._exit_code: asyncio.Future[int] = loop.create_future()
        loop.add_signal_handler(signal.SIGCHLD, self._poll_children)
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._handle_signal)
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup ignores it
            loop.add_signal_handler(signal.SIGHUP, self._handle_signal)
        self._create_task(self._start_all(scenario))
        try:
            return await self._exit_code
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(self._tasks)
            for is_last in (False, True):
                await self._stop(spec.name for spec in self._specs if spec.outlives_others is is_last)

    async def reload(self, names: Collection[str]) -> None:
        """Stop these processes, and start each again; one that has failed to load as well."""
        running = [spec.name for spec in self._specs if spec.name in names and spec.name in self._children]
        for name in running:
            self._reloaded.setdefault(name, asyncio.Event()).set()
        await self._stop(running)

    async def _stop(self, names: Iterable[str]) -> None:
        await asyncio.gather(*(self._children[name].stop() for name in names if name in self._children))

    async def _start_all(self, scenario: Callable[[], Awaitable[int | None]]) -> None:
        for spec in self._specs:
            self._create_task(self._run_child(spec))
            await self._wait_until_ready(spec)
        exit_code = await scenario()
        if exit_code is not None and not self._exit_code.done():
            self._exit_code.set_result(exit_code)

    async def _run_child(self, spec: ProcessSpec) -> None:
        failed_starts = deaths = 0
        while True:
            child = self._children[spec.name] = ChildProcess(spec, self._environment, self._print_line)
            exit_code = await asyncio.shield(child.ended)
            reloaded = self._reloaded.get(spec.name)
            if reloaded is not None and exit_code == WRONG_USAGE and not reloaded.is_set():
                self._print_line(spec.name, "waits for the next change")
                await reloaded.wait()
            if reloaded is not None and reloaded.is_set():
                reloaded.clear()
                failed_starts = deaths = 0
                continue
            if child.age > STABLE_AFTER:
                failed_starts = deaths = 0
            elif exit_code >= 0:  # a kill by a person is no failed start
                failed_starts += 1
            if exit_code == WRONG_USAGE or failed_starts == FAILED_STARTS:
                raise ChildFailedError(spec, child, exit_code)
            deaths += 1
            pause = BACKOFF.delay(deaths, jitter=0).total_seconds()
            self._print_line(spec.name, f"{exit_text(exit_code)}; started again in {pause:.1f} s")
            await asyncio.sleep(pause)

    async def _wait_until_ready(self, spec: ProcessSpec) -> None:
        # After the timeout the others start without it: it is restarted when it ends.
        loop = asyncio.get_running_loop()
        deadline = loop.time() + READY_TIMEOUT.total_seconds()
        while loop.time() < deadline and not await asyncio.to_thread(spec.is_ready):  # noqa: ASYNC110  the condition is in another process
            await asyncio.sleep(POLL_INTERVAL.total_seconds())

    def _create_task(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        task.add_done_callback(self._handle_failure)
        self._tasks.append(task)

    def _handle_failure(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None and not self._exit_code.done():
            self._exit_code.set_exception(error)

    def _poll_children(self) -> None:
        for child in self._children.values():
            child.poll()

    def _handle_signal(self) -> None:
        if not self._exit_code.done():
            self._print_line(OWN_NAME, "stopping all processes; a second Ctrl-C kills them")
            self._exit_code.set_result(0)
            return
        for child in self._children.values():
            child.kill()


def exit_text(exit_code: int) -> str:
    """Format how a process ended."""
    if exit_code >= 0:
        return f"ended with exit code {exit_code}"
    return f"was ended by {signal.Signals(-exit_code).name}"
