"""A worker with pgqueuer, to be run in an environment that has it: `URL fill EVENTS`, `URL alone` or `URL group`.

Each job is an event. Its handler decodes it, inserts the delivery and upserts its session, and commits.
"""

import asyncio
import hashlib
import json
import signal
import sys
import time
from datetime import UTC, datetime, timedelta

import asyncpg
import uvloop
from pgqueuer import PgQueuer
from pgqueuer.db import AsyncpgDriver
from pgqueuer.queries import Queries
from pydantic import BaseModel

URL = sys.argv[1]
QUEUE = "events"
CHUNK = 1000
BATCH = 500
CONNECTIONS = 16
NAMES = ("SESSION_STARTED", "SESSION_STOPPED", "SESSION_COMPLETE")
TABLES = """
CREATE TABLE delivery (id text PRIMARY KEY, session_id text, name text, at text, body text, done double precision);
CREATE TABLE session (id text PRIMARY KEY, driver text, status text, at text)
"""
INSERT = """
INSERT INTO delivery SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::float8[])
ON CONFLICT DO NOTHING
"""
UPSERT = """
INSERT INTO session SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[]) ORDER BY 1
ON CONFLICT (id) DO UPDATE SET status = excluded.status, at = excluded.at WHERE excluded.at > session.at
"""


class Payload(BaseModel):
    sessionId: str  # noqa: N815 - as it is written
    userId: str | None = None  # noqa: N815 - as above
    timestamp: str


class Event(BaseModel):
    event: str
    payload: Payload


def body(number: int) -> bytes:
    session, step = divmod(number, len(NAMES))
    at = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=number)
    payload = {"userId": f"driver-{session}", "sessionId": f"rival-{session}", "timestamp": at.isoformat()}
    return json.dumps({"event": NAMES[step], "payload": payload}).encode()


async def fill(events: int) -> None:
    connection = await asyncpg.connect(URL)
    await connection.execute(TABLES)
    queries = Queries(AsyncpgDriver(connection))
    await queries.install()
    for start in range(0, events, CHUNK):
        some = [body(number) for number in range(start, min(start + CHUNK, events))]
        await queries.enqueue([QUEUE] * len(some), some, [0] * len(some))


class Store:
    """Writes events in one transaction."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self.pool = pool

    async def __call__(self, bodies: list[bytes]) -> None:
        rows, latest = [], {}
        for each in bodies:
            event = Event.model_validate_json(each)
            at, session_id = event.payload.timestamp, event.payload.sessionId
            rows.append((hashlib.sha256(each).hexdigest(), session_id, event.event, at, each.decode(), time.time()))
            if session_id not in latest or at > latest[session_id][3]:
                latest[session_id] = (session_id, event.payload.userId, event.event, at)
        async with self.pool.acquire() as connection, connection.transaction():
            await connection.execute(INSERT, *map(list, zip(*rows, strict=True)))
            await connection.execute(UPSERT, *map(list, zip(*latest.values(), strict=True)))


class GroupCommit:
    """Commits what this process has at hand together, and then what has come meanwhile."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.waiting: list[tuple[bytes, asyncio.Future[None]]] = []
        self.task: asyncio.Task[None] | None = None

    async def __call__(self, bodies: list[bytes]) -> None:
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
        await store([job.payload])

    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, queue.shutdown.set)
    await queue.run(batch_size=BATCH)


uvloop.run(fill(int(sys.argv[3])) if sys.argv[2] == "fill" else work(group=sys.argv[2] == "group"))
