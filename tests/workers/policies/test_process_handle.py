"""The parent's side of a policy process, with a process of the test at the other end."""

import asyncio
import errno
import time
from datetime import UTC, datetime

import pytest

from ingest.authorize.decisions import PolicyResult
from ingest.config.settings import load_settings
from ingest.wire.authorization.request import AuthorizationRequest, WireFormat
from workers.policies import process_handle
from workers.policies.process_handle import MAX_UNSENT, PolicyProcess, ProcessDied
from workers.policies.process_main import LENGTH, Evaluate, Evaluated, PolicyStarted, Ready, receive, send

REQUEST = AuthorizationRequest(WireFormat.PLUGSURFING, datetime.now(UTC), key="0414DA")
RESULT = PolicyResult(policy="first")


class InProcess:
    """Stands in for a process: its main function runs as a task of the test's event loop."""

    main = None

    def __init__(self, target, args, name, daemon):  # noqa: ARG002 - as multiprocessing calls it
        self.channel = args[0].dup()
        self.loop = asyncio.get_running_loop()
        self.is_killed = False

    def start(self):
        asyncio.run_coroutine_threadsafe(self._run(), self.loop)

    async def _run(self):
        reader, writer = await asyncio.open_connection(sock=self.channel)
        await type(self).main(reader, writer)

    def kill(self):
        self.is_killed = True

    def join(self):
        pass


@pytest.fixture
def played(monkeypatch, tmp_path):
    """Play a story with a started process whose other end runs `main`."""

    def play(main, story):
        monkeypatch.setattr(InProcess, "main", staticmethod(main))
        monkeypatch.setattr(process_handle.FORK_SERVER, "Process", InProcess, raising=False)

        async def run():
            process = PolicyProcess(load_settings(data_dir=tmp_path))
            try:
                await story(process)
            finally:
                await process.kill()

        asyncio.run(asyncio.wait_for(run(), 30))

    return play


async def answers(reader, writer):
    send(writer, Ready())
    while True:
        try:
            message = await receive(reader)
        except EOFError:
            return
        assert isinstance(message, Evaluate)
        send(writer, PolicyStarted(message.number, "first"))
        send(writer, Evaluated(message.number, RESULT))


async def hangs(_reader, writer):
    send(writer, Ready())
    await asyncio.sleep(60)


async def writes_rubbish(reader, writer):
    send(writer, Ready())
    await receive(reader)
    writer.write(LENGTH.pack(7) + b"rubbish")
    await asyncio.sleep(60)


async def dies(reader, writer):
    send(writer, Ready())
    await receive(reader)
    writer.write(LENGTH.pack(100) + b"half a message")
    writer.close()


async def is_never_ready(_reader, _writer):
    await asyncio.sleep(60)


def test_a_request_gets_its_result_and_the_policies_that_started(played):
    async def story(process):
        assert await process.start(20)
        pending = process.submit(REQUEST, frozenset())
        assert process.load == 1
        assert await pending.result == RESULT
        assert pending.started == ["first"]
        assert not pending.is_lost
        process.cancel(pending)
        assert process.load == 0

    played(answers, story)


@pytest.mark.parametrize("main", [dies, writes_rubbish])
def test_a_process_that_dies_or_writes_rubbish_loses_its_requests_at_once(played, main):
    async def story(process):
        assert await process.start(20)
        pending = [process.submit(REQUEST, frozenset()) for _ in range(2)]
        with pytest.raises(ProcessDied):
            await pending[0].result
        assert all(each.is_lost for each in pending)
        assert process.is_dead
        assert process.closed.done()
        assert not process.is_available

    played(main, story)


def test_a_request_that_cannot_be_sent_is_not_pending(played):
    async def story(process):
        assert await process.start(20)
        with pytest.raises(TypeError):
            process.submit(
                AuthorizationRequest(WireFormat.OCPI, datetime.now(UTC), document={"odd": object()}), frozenset()
            )
        assert process.load == 0
        assert await process.submit(REQUEST, frozenset()).result == RESULT

    played(answers, story)


def test_a_process_that_reads_nothing_accepts_no_more_once_too_much_is_unsent(played):
    large = AuthorizationRequest(WireFormat.PLUGSURFING, datetime.now(UTC), document={"text": "x" * MAX_UNSENT})

    async def story(process):
        assert await process.start(20)
        for _ in range(3):
            process.submit(large, frozenset())
        assert not process.is_available
        assert not process.is_dead

    played(hangs, story)


def test_a_process_that_is_drained_accepts_no_more_but_finishes(played):
    async def story(process):
        assert await process.start(20)
        pending = process.submit(REQUEST, frozenset())
        process.drain()
        assert not process.is_available
        assert await pending.result == RESULT

    played(answers, story)


def test_a_process_that_is_not_ready_in_time_did_not_start(played):
    async def story(process):
        started_at = time.monotonic()
        assert not await process.start(0.05)
        assert time.monotonic() - started_at < 10
        assert not process.is_available

    played(is_never_ready, story)


@pytest.mark.parametrize(
    ("place", "failure"),
    [
        (InProcess, EOFError()),  # the fork server is gone
        (InProcess, RuntimeError("can't start new thread")),
        (process_handle.socket, OSError(errno.EMFILE, "Too many open files")),
    ],
)
def test_what_a_machine_refuses_is_a_process_that_did_not_start(played, monkeypatch, place, failure):
    def refuse(*_arguments):
        raise failure

    async def story(process):
        with monkeypatch.context() as patch:
            patch.setattr(place, "start" if place is InProcess else "socketpair", refuse)
            assert not await process.start(20)
        assert not process.is_available

    played(answers, story)


def test_a_result_after_the_request_was_cancelled_is_ignored(played):
    async def story(process):
        assert await process.start(20)
        cancelled = process.submit(REQUEST, frozenset())
        process.cancel(cancelled)
        assert await process.submit(REQUEST, frozenset()).result == RESULT
        assert cancelled.result.cancelled()
        assert not cancelled.is_lost
        assert cancelled.started == []

    played(answers, story)
