"""A judge as the lane sees it: what it was asked, how far it is, and whether it is still there."""

import asyncio
import multiprocessing
import socket
from dataclasses import dataclass, field

import structlog

from ingest.authorize.evaluator import PolicyResult
from ingest.config.settings import Settings
from ingest.wire.authorization.request import AuthorizationRequest
from workers.policies.ipc import LENGTH, Evaluate, Evaluated, PolicyStarted, Ready, decode, encode
from workers.policies.process_main import main

log = structlog.get_logger()

# A fork of the lane itself would inherit its threads' locks; a new interpreter would need a second to load everything.
FORKS = multiprocessing.get_context("forkserver")
# Also the script that runs, which multiprocessing imports in each child unless it is there.
PRELOADED = ["__main__", "workers.policies.preload"]
# Bytes. A judge that reads no more has more than a question on its way to it.
MAX_UNSENT = 1_048_576


class ProcessDied(Exception):
    """Raised in place of a ruling when the judge has died."""


@dataclass(eq=False)
class PendingRequest:
    """A question that was put to a judge."""

    number: int
    ruling: asyncio.Future[PolicyResult]
    begun: list[str] = field(default_factory=list)
    """The policies it was asked of, the last one perhaps still at it."""

    @property
    def is_lost(self) -> bool:
        """Whether the judge died over it."""
        return self.ruling.done() and not self.ruling.cancelled() and self.ruling.exception() is not None


class PolicyProcess:
    """One judge. Belongs to the lane's event loop."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._cases: dict[int, PendingRequest] = {}
        self._last = 0
        self._process: multiprocessing.process.BaseProcess | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._listening: asyncio.Task[None] | None = None
        loop = asyncio.get_running_loop()
        self._ready: asyncio.Future[None] = loop.create_future()
        self.closed: asyncio.Future[None] = loop.create_future()
        """Done when it is to get no more questions: it was late with one, or it has died."""
        self.is_gone = False

    async def start(self, patience: float) -> bool:
        """Start the process; say whether it could be asked within so many seconds."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)  # noqa: FBT003 - it takes no name
        with theirs:
            process = FORKS.Process(target=main, args=(theirs, self._settings), name="judge", daemon=True)
            try:
                await asyncio.to_thread(process.start)
            except (OSError, EOFError) as error:
                log.error("judge.not_forked", error=type(error).__name__)  # noqa: TRY400 - its stack says no more
                ours.close()
                return False
        self._process = process
        reader, self._writer = await asyncio.open_connection(sock=ours)
        self._listening = asyncio.create_task(self._listen(reader))
        await asyncio.wait([self._ready, self.closed], timeout=patience, return_when=asyncio.FIRST_COMPLETED)
        return self.is_free

    @property
    def is_free(self) -> bool:
        """Whether it may be asked."""
        if self._writer is None or not self._ready.done() or self.closed.done():
            return False
        return self._writer.transport.get_write_buffer_size() < MAX_UNSENT

    @property
    def load(self) -> int:
        """How many questions it has."""
        return len(self._cases)

    def submit(self, question: AuthorizationRequest, spared: frozenset[str]) -> PendingRequest:
        """Put a question to it, without waiting for anything. Only when it is free."""
        self._last += 1
        frame = encode(Evaluate(self._last, question, spared))
        case = PendingRequest(self._last, asyncio.get_running_loop().create_future())
        self._cases[case.number] = case
        if self._writer is not None:
            self._writer.write(frame)
        return case

    def cancel(self, case: PendingRequest) -> None:
        """Wait for a case no longer."""
        self._cases.pop(case.number, None)
        case.ruling.cancel()

    def drain(self) -> None:
        """Give it no more questions."""
        if not self.closed.done():
            self.closed.set_result(None)

    async def end(self) -> None:
        """End the process, whatever it is doing."""
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
                (length,) = LENGTH.unpack(await reader.readexactly(LENGTH.size))
                self._hear(decode(await reader.readexactly(length)))
        except (asyncio.IncompleteReadError, ConnectionError):
            self._fail_pending()

    def _hear(self, frame: object) -> None:
        match frame:
            case Ready():
                self._ready.set_result(None)
            case PolicyStarted(number, policy) if number in self._cases:
                self._cases[number].begun.append(policy)
            case Evaluated(number, ruling) if number in self._cases and not self._cases[number].ruling.done():
                self._cases[number].ruling.set_result(ruling)

    def _fail_pending(self) -> None:
        self.is_gone = True
        self.drain()
        for case in self._cases.values():
            if not case.ruling.done():
                case.ruling.set_exception(ProcessDied())
                case.ruling.exception()  # perhaps nobody waits for it any more; asyncio need not log that
