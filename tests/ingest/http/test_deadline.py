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


def test_what_is_done_in_time_is_returned():
    async def story():
        patience = SharedDeadline(LONG)
        assert await asyncio.gather(*[patience.wait_for(soon(number)) for number in range(5)]) == list(range(5))
        assert await patience.wait_for(soon("again")) == "again"

    asyncio.run(story())


def test_what_takes_too_long_is_ended_and_its_task_goes_on():
    ended = []

    async def slow():
        try:
            await for_ever()
        finally:
            ended.append(True)

    async def story():
        patience = SharedDeadline(SHORT)
        begun = time.monotonic()
        with pytest.raises(TimeoutError):
            await patience.wait_for(slow())
        assert ended
        assert time.monotonic() - begun >= SHORT.total_seconds()
        assert asyncio.current_task().cancelling() == 0
        assert await patience.wait_for(soon(1)) == 1

    asyncio.run(story())


def test_each_has_its_own_time_though_there_is_one_timer():
    async def story():
        patience = SharedDeadline(SHORT)
        begun, ended = {}, {}

        async def late(number):
            await asyncio.sleep(number * 0.02)
            begun[number] = time.monotonic()
            with pytest.raises(TimeoutError):
                await patience.wait_for(for_ever())
            ended[number] = time.monotonic()

        await asyncio.gather(*[late(number) for number in range(4)])
        assert all(ended[number] - begun[number] >= SHORT.total_seconds() - 0.001 for number in range(4))
        assert sorted(ended, key=ended.get) == list(range(4))

    asyncio.run(story())


def test_whoever_clings_on_is_told_once():
    async def stubborn(lets_go):
        try:
            await for_ever()
        except asyncio.CancelledError:
            await lets_go.wait()
            raise

    async def story():
        patience, lets_go = SharedDeadline(SHORT), asyncio.Event()
        clinging = asyncio.create_task(patience.wait_for(stubborn(lets_go)))
        await asyncio.sleep(SHORT.total_seconds() / 2)
        with pytest.raises(TimeoutError):
            await patience.wait_for(for_ever())
        assert not clinging.done()
        lets_go.set()
        with pytest.raises(TimeoutError):
            await clinging

    asyncio.run(story())


def test_a_cancellation_from_outside_stays_one():
    async def story():
        patience = SharedDeadline(SHORT)
        task = asyncio.create_task(patience.wait_for(for_ever()))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(story())


def test_a_cancellation_from_outside_wins_over_time():
    async def hears_both():
        try:
            await for_ever()
        except asyncio.CancelledError:
            asyncio.current_task().cancel()
            raise

    async def story():
        task = asyncio.create_task(SharedDeadline(SHORT).wait_for(hears_both()))
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(story())
