"""A policy process: it evaluates policies, which may block, burn CPU or crash it, and no event loop but its own.

endpoint -> [socket] -> policy process -> policies
"""

import asyncio
import json
import os
import signal
import socket
import struct
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing.reduction import ForkingPickler
from typing import NoReturn, TypeAlias

import structlog

from ingest.authorize.decisions import PolicyResult
from ingest.config.settings import Settings
from ingest.errors import WebhooksError
from ingest.log import configure_logging
from ingest.wire.authorization.request import AuthorizationRequest
from workers.plugins import load_plugins
from workers.policies.evaluate import PolicyChain, policy_context_factory
from workers.resilience.process_death import set_parent_death_signal

log = structlog.get_logger()

LENGTH = struct.Struct("!I")

# The messages, and what they contain, have no slots: pickling is two to three times as fast without.


@dataclass(frozen=True)
class Ready:
    """The process has loaded everything and accepts requests."""


@dataclass(frozen=True)
class Evaluate:
    """Evaluate the policies for a request, under a number of its own."""

    number: int
    request: AuthorizationRequest
    skip: frozenset[str]

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle the document as JSON: pickle recurses twice a level, and would fail on half the depth that arrives."""
        document = json.dumps(self.request.document)
        return _restore, (self.number, replace(self.request, document={}), document, self.skip)


@dataclass(frozen=True)
class PolicyStarted:
    """The process is about to call a policy."""

    number: int
    policy: str


@dataclass(frozen=True)
class Evaluated:
    """The process is done with a request."""

    number: int
    result: PolicyResult


Message: TypeAlias = Ready | Evaluate | PolicyStarted | Evaluated


def send(writer: asyncio.StreamWriter, message: Message) -> None:
    """Buffer a message without waiting."""
    content = ForkingPickler.dumps(message)
    writer.write(LENGTH.pack(len(content)) + content)


async def receive(reader: asyncio.StreamReader) -> Message:
    """Return the next message. Raise EOFError once the other process has closed the socket or died.

    A stream and not multiprocessing's Connection, whose `recv` blocks while the other process has written half of one.
    """
    try:
        (length,) = LENGTH.unpack(await reader.readexactly(LENGTH.size))
        message: Message = ForkingPickler.loads(await reader.readexactly(length))
    except (asyncio.IncompleteReadError, ConnectionError):
        raise EOFError from None
    return message


def main(channel: socket.socket, settings: Settings) -> NoReturn:
    """Serve requests from the socket until it is closed, then exit at once, whatever policies are doing."""
    code = 1
    try:
        if sys.platform == "linux":
            set_parent_death_signal(os.getppid(), signal.SIGKILL)
        for number in (signal.SIGINT, signal.SIGTERM):  # the parent ends this process after the last response
            signal.signal(number, signal.SIG_IGN)
        configure_logging(settings, "policies")
        asyncio.run(_serve(channel, settings))
        code = 0
    except Exception as error:  # noqa: BLE001 - the last chance to log it: this process ends here
        reason = str(error) if isinstance(error, WebhooksError) else type(error).__name__
        log.error("policy_process.failed", reason=reason)  # noqa: TRY400 - its text may be anything
    finally:
        os._exit(code)  # sys.exit would wait for threads that may hang


async def _serve(channel: socket.socket, settings: Settings) -> None:
    reader, writer = await asyncio.open_connection(sock=channel)
    chain = PolicyChain(
        load_plugins(settings).policies,
        policy_context_factory(settings),
        ThreadPoolExecutor(settings.authorize_concurrency, "policy"),
    )
    send(writer, Ready())
    tasks: set[asyncio.Task[None]] = set()
    while True:
        try:
            message = await receive(reader)
        except EOFError:
            return
        if isinstance(message, Evaluate):
            task = asyncio.create_task(_handle(chain, message, writer))
            tasks.add(task)
            task.add_done_callback(tasks.discard)


async def _handle(chain: PolicyChain, message: Evaluate, writer: asyncio.StreamWriter) -> None:
    def on_start(policy: str) -> None:
        send(writer, PolicyStarted(message.number, policy))  # sent at once, before the policy can block

    result = await chain.evaluate(message.request, skip=message.skip, on_start=on_start)
    send(writer, Evaluated(message.number, result))


def _restore(number: int, request: AuthorizationRequest, document: str, skip: frozenset[str]) -> Evaluate:
    return Evaluate(number, replace(request, document=json.loads(document)), skip)
