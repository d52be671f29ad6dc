"""A judge: the process in which policies are asked, and which may hang, burn or die of them.

lane -> [socket] -> judge -> policies
"""

import asyncio
import os
import signal
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import NoReturn

import structlog

from ingest.config.settings import Settings
from ingest.errors import WebhooksError
from ingest.log import configure_logging
from workers.dev.child_process import set_parent_death_signal
from workers.plugins import load_plugins
from workers.policies.context import policy_context_factory
from workers.policies.evaluate import PolicyChain
from workers.policies.ipc import LENGTH, Evaluate, Evaluated, PolicyStarted, Ready, decode, encode

log = structlog.get_logger()


def main(channel: socket.socket, settings: Settings) -> NoReturn:
    """Answer what comes over the channel until it is closed; then end at once, whatever policies are doing."""
    code = 1
    try:
        if sys.platform == "linux":
            set_parent_death_signal(os.getppid(), signal.SIGKILL)
        for number in (signal.SIGINT, signal.SIGTERM):  # the lane ends us, when the last question is answered
            signal.signal(number, signal.SIG_IGN)
        configure_logging(settings, "judge")
        asyncio.run(_serve(channel, settings))
        code = 0
    except Exception as error:  # noqa: BLE001 - nobody else would hear of it: this process ends here
        reason = str(error) if isinstance(error, WebhooksError) else type(error).__name__
        log.error("judge.failed", reason=reason)  # noqa: TRY400 - its text may be anything
    finally:
        os._exit(code)  # and not sys.exit, which would wait for threads that may hang


async def _serve(channel: socket.socket, settings: Settings) -> None:
    reader, writer = await asyncio.open_connection(sock=channel)
    asking = PolicyChain(
        load_plugins(settings).policies,
        policy_context_factory(settings),
        ThreadPoolExecutor(settings.authorize_concurrency, "policy"),
    )
    writer.write(encode(Ready()))
    tasks: set[asyncio.Task[None]] = set()
    while True:
        try:
            (length,) = LENGTH.unpack(await reader.readexactly(LENGTH.size))
            put = decode(await reader.readexactly(length))
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        if isinstance(put, Evaluate):
            task = asyncio.create_task(_handle(asking, put, writer))
            tasks.add(task)
            task.add_done_callback(tasks.discard)


async def _handle(asking: PolicyChain, put: Evaluate, writer: asyncio.StreamWriter) -> None:
    def begins(policy: str) -> None:
        writer.write(encode(PolicyStarted(put.number, policy)))  # goes out at once, before the policy can hang

    ruling = await asking.evaluate(put.question, skip=put.spared, begins=begins)
    writer.write(encode(Evaluated(put.number, ruling)))
