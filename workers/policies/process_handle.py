"""The parent's side of a policy process: its pending requests, and whether it still lives."""

import asyncio
import multiprocessing
import socket
from dataclasses import dataclass, field

import structlog

from ingest.authorize.decisions import PolicyResult
from ingest.config.settings import Settings
from ingest.wire.authorization.request import AuthorizationRequest
from workers.policies.process_main import Evaluate, Evaluated, Message, PolicyStarted, Ready, main, receive, send

log = structlog.get_logger()

# A fork of this process would inherit its threads' locks; a new interpreter would need a second to load everything.
FORK_SERVER = multiprocessing.get_context("forkserver")
# Also the script that runs, which multiprocessing otherwise imports in each child.
PRELOADED = ["__main__", "workers.policies.preload"]
# Bytes. A process with more than that unread is blocked: a request has some hundred.
MAX_UNSENT = 1_048_576


class ProcessDied(Exception):
    """Raised in place of a result when the policy process has died."""


@dataclass(eq=False)
class PendingRequest:
    """A request that was sent to a policy process."""

    number: int
    result: asyncio.Future[PolicyResult]
    started: list[str] = field(default_factory=list)
    """The policies that were called; the last one may still run."""

    @property
    def is_lost(self) -> bool:
        """Whether the process died before it had a result."""
        return self.result.done() and not self.result.cancelled() and self.result.exception() is not None


class PolicyProcess:
    """One policy process. Belongs to one event loop."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._pending: dict[int, PendingRequest] = {}
        self._last_number = 0
        self._process: multiprocessing.process.BaseProcess | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._listening: asyncio.Task[None] | None = None
        loop = asyncio.get_running_loop()
        self._ready: asyncio.Future[None] = loop.create_future()
        self.closed: asyncio.Future[None] = loop.create_future()
        """Done when it accepts no more requests: it was late with one, or it has died."""
        self.is_dead = False

    async def start(self, within: float) -> bool:
        """Start the process; return whether it became ready within so many seconds."""
        try:
            reader = await self._fork()
        except (OSError, EOFError, RuntimeError) as error:  # no more files, processes or threads
            log.error("policy_process.fork_failed", error=type(error).__name__)  # noqa: TRY400 - its stack says no more
            return False
        self._listening = asyncio.create_task(self._listen(reader))
        await asyncio.wait([self._ready, self.closed], timeout=within, return_when=asyncio.FIRST_COMPLETED)
        return self.is_available

    async def _fork(self) -> asyncio.StreamReader:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)  # noqa: FBT003 - it takes no name
        with theirs:
            process = FORK_SERVER.Process(target=main, args=(theirs, self._settings), name="policies", daemon=True)
            try:
                await asyncio.to_thread(process.start)
            except BaseException:
                ours.close()
                raise
        self._process = process
        reader, self._writer = await asyncio.open_connection(sock=ours)
        return reader

    @property
    def is_available(self) -> bool:
        """Whether it accepts requests."""
        if self._writer is None or not self._ready.done() or self.closed.done():
            return False
        return self._writer.transport.get_write_buffer_size() < MAX_UNSENT

    @property
    def load(self) -> int:
        """The number of pending requests."""
        return len(self._pending)

    def submit(self, request: AuthorizationRequest, skip: frozenset[str]) -> PendingRequest:
        """Send a request, without waiting. Only while the process is available."""
        self._last_number += 1
        if self._writer is not None:
            send(self._writer, Evaluate(self._last_number, request, skip))
        pending = PendingRequest(self._last_number, asyncio.get_running_loop().create_future())
        self._pending[pending.number] = pending
        return pending

    def cancel(self, pending: PendingRequest) -> None:
        """Forget a request; a result that still comes is ignored."""
        self._pending.pop(pending.number, None)
        pending.result.cancel()

    def drain(self) -> None:
        """Accept no more requests."""
        if not self.closed.done():
            self.closed.set_result(None)

    async def kill(self) -> None:
        """Kill the process, whatever it is doing, and wait until it is gone."""
        if self._writer is not None:
            self._writer.close()
        if self._listening is not None:
            self._listening.cancel()
        if self._process is not None:
            self._process.kill()
            await asyncio.to_thread(self._process.join)
        self._fail_pending()

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        try:
            while True:
                self._on_message(await receive(reader))
        except EOFError:
            self._fail_pending()
        except Exception as error:  # noqa: BLE001 - what it wrote is not a message: it is as good as dead
            log.error("policy_process.invalid_message", error=type(error).__name__)  # noqa: TRY400 - its stack says no more
            self._fail_pending()

    def _on_message(self, message: Message) -> None:
        match message:
            case Ready():
                self._ready.set_result(None)
            case PolicyStarted(number, policy) if number in self._pending:
                self._pending[number].started.append(policy)
            case Evaluated(number, result) if number in self._pending and not self._pending[number].result.done():
                self._pending[number].result.set_result(result)

    def _fail_pending(self) -> None:
        self.is_dead = True
        self.drain()
        for pending in self._pending.values():
            if not pending.result.done():
                pending.result.set_exception(ProcessDied())
                pending.result.exception()  # marks it as retrieved: asyncio need not log it if nothing waits for it
