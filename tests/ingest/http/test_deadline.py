import asyncio
import time
from datetime import timedelta

import pytest

from ingest.http.deadline import SharedDeadline

SHORT = timedelta(milliseconds=50)
LONG = timedelta(minutes=1)


async def for_ever():
    await asyncio.Event().wait()


async def soon(value):
    await asyncio.sleep(0)
    return value


def test_a_result_in_time_is_returned():
    async def run():
        deadline = SharedDeadline(LONG)
        assert await asyncio.gather(*[deadline.wait_for(soon(number)) for number in range(5)]) == list(range(5))
        assert await deadline.wait_for(soon("again")) == "again"

    asyncio.run(run())


def test_what_takes_too_long_is_cancelled_and_its_task_goes_on():
    ended = []

    async def slow():
        try:
            await for_ever()
        finally:
            ended.append(True)

    async def run():
        deadline = SharedDeadline(SHORT)
        begun = time.monotonic()
        with pytest.raises(TimeoutError):
            await deadline.wait_for(slow())
        assert ended
        assert time.monotonic() - begun >= SHORT.total_seconds()
        assert asyncio.current_task().cancelling() == 0
        assert await deadline.wait_for(soon(1)) == 1

    asyncio.run(run())


def test_each_task_has_its_own_deadline_though_there_is_one_timer():
    async def run():
        deadline = SharedDeadline(SHORT)
        begun, ended = {}, {}

        async def late(number):
            await asyncio.sleep(number * 0.02)
            begun[number] = time.monotonic()
            with pytest.raises(TimeoutError):
                await deadline.wait_for(for_ever())
            ended[number] = time.monotonic()

        await asyncio.gather(*[late(number) for number in range(4)])
        assert all(ended[number] - begun[number] >= SHORT.total_seconds() - 0.001 for number in range(4))
        assert sorted(ended, key=ended.get) == list(range(4))

    asyncio.run(run())


def test_a_task_that_ignores_the_cancellation_is_cancelled_once():
    async def stubborn(may_end):
        try:
            await for_ever()
        except asyncio.CancelledError:
            await may_end.wait()
            raise

    async def run():
        deadline, may_end = SharedDeadline(SHORT), asyncio.Event()
        stubborn_task = asyncio.create_task(deadline.wait_for(stubborn(may_end)))
        await asyncio.sleep(SHORT.total_seconds() / 2)
        with pytest.raises(TimeoutError):
            await deadline.wait_for(for_ever())
        assert not stubborn_task.done()
        may_end.set()
        with pytest.raises(TimeoutError):
            await stubborn_task

    asyncio.run(run())


def test_a_cancellation_from_outside_is_passed_on():
    async def run():
        deadline = SharedDeadline(SHORT)
        task = asyncio.create_task(deadline.wait_for(for_ever()))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())


def test_a_cancellation_from_outside_wins_over_the_deadline():
    async def cancelled_twice():
        try:
            await for_ever()
        except asyncio.CancelledError:
            asyncio.current_task().cancel()
            raise

    async def run():
        task = asyncio.create_task(SharedDeadline(SHORT).wait_for(cancelled_twice()))
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())
