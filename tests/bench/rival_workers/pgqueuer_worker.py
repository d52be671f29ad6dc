"""A worker with pgqueuer, with the argument `alone` or `group`; with `fill` it fills the queue.

`group` commits what one process has at hand together, and so it fails together.
"""

import asyncio
import os
import signal
import sys

import asyncpg
import uvloop
from pgqueuer import PgQueuer
from pgqueuer.db import AsyncpgDriver
from pgqueuer.queries import Queries

from tests.bench.rival_workers.event_store import DATABASE_VARIABLE, INSERT, UPSERT, columns, events

URL = os.environ[DATABASE_VARIABLE]
QUEUE = "events"
CHUNK = 1000
BATCH = 500
CONNECTIONS = 16


async def fill() -> None:
    queries = Queries(AsyncpgDriver(await asyncpg.connect(URL)))
    await queries.install()
    bodies = [each.encode() for each in events()]
    for start in range(0, len(bodies), CHUNK):
        some = bodies[start : start + CHUNK]
        await queries.enqueue([QUEUE] * len(some), some, [0] * len(some))


class Store:
    """Writes events in one transaction."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self.pool = pool

    async def __call__(self, bodies: list[str]) -> None:
        deliveries, sessions = columns(bodies)
        async with self.pool.acquire() as connection, connection.transaction():
            await connection.execute(INSERT, *deliveries)
            await connection.execute(UPSERT, *sessions)


class GroupCommit:
    """Commits what this process has at hand together, and then what has come meanwhile."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.waiting: list[tuple[str, asyncio.Future[None]]] = []
        self.task: asyncio.Task[None] | None = None

    async def __call__(self, bodies: list[str]) -> None:
        stored = asyncio.get_running_loop().create_future()
        self.waiting.append((bodies[0], stored))
        if self.task is None:
            self.task = asyncio.create_task(self.run())
        await stored

    async def run(self) -> None:
        while self.waiting:
            await asyncio.sleep(0)
            group, self.waiting = self.waiting[:BATCH], self.waiting[BATCH:]
            await self.store([each for each, _ in group])
            for _, stored in group:
                stored.set_result(None)
        self.task = None


async def work(*, group: bool) -> None:
    pool = await asyncpg.create_pool(URL, min_size=CONNECTIONS, max_size=CONNECTIONS)
    store = GroupCommit(Store(pool)) if group else Store(pool)
    queue = PgQueuer(AsyncpgDriver(await asyncpg.connect(URL)))

    @queue.entrypoint(QUEUE)
    async def one(job) -> None:
        await store([job.payload.decode()])

    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, queue.shutdown.set)
    await queue.run(batch_size=BATCH)


if __name__ == "__main__":
    uvloop.run(fill() if sys.argv[1] == "fill" else work(group=sys.argv[1] == "group"))
