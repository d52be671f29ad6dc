"""What we are measured against: an empty response, one `enqueue` a request, and one RQ job an event.

Stock `rq worker -c tests.bench.baselines` imports this module before it forks, and with it all that a job needs.
"""

import os
from datetime import UTC, datetime

import psycopg  # noqa: F401 - else imported after each fork, when a job makes its engine
import sqlalchemy.dialects.postgresql.psycopg
import sqlalchemy.dialects.sqlite  # noqa: F401 - as above
from redis import Redis
from rq import Queue
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from handlers.kit.merge import merge
from handlers.session_records import session_of
from ingest.events import SessionEvent, decode
from ingest.queue.batch import Delivery
from ingest.wire.envelope import Envelope, Kind
from ingest.wire.signature import SIGNATURE_HEADER, Match, SigningKeys, verify
from workers.ledger import deliveries, sessions
from workers.ledger.database.engine import create_ledger_engine
from workers.ledger.states import DeliveryState

USUAL_QUEUE = "usual"
STORE_ONE = "tests.bench.baselines.store_one"
REDIS_VARIABLE = "BENCH_REDIS_URL"
DATABASE_VARIABLE = "BENCH_DATABASE_URL"
KEY_VARIABLE = "BENCH_KEY"


def empty() -> Starlette:
    """Return an application that responds 200 and does nothing: the ceiling of anything on Starlette."""

    async def respond(_request: Request) -> Response:
        return Response()

    return Starlette(routes=[Route("/plugsurfing/events", respond, methods=["POST"])])


def enqueue_per_request() -> Starlette:
    """Return an application that verifies, enqueues a job in the thread pool and responds: the usual recipe on RQ."""
    queue = Queue(USUAL_QUEUE, connection=Redis.from_url(os.environ[REDIS_VARIABLE]))
    keys = SigningKeys(current=os.environ[KEY_VARIABLE].encode())

    async def respond(request: Request) -> Response:
        body = await request.body()
        verify(body, request.headers[SIGNATURE_HEADER], keys)
        await run_in_threadpool(queue.enqueue, STORE_ONE, body)
        return Response()

    return Starlette(routes=[Route("/plugsurfing/events", respond, methods=["POST"])])


def store_one(body: bytes) -> None:
    """Decode one event, store it, merge it into its session and commit: the work of a batch, for one event."""
    event = decode(Kind.EVENTS, body)
    if not isinstance(event, SessionEvent):
        raise TypeError("the load sends session events only")
    envelope = Envelope(Kind.EVENTS, body, datetime.now(UTC), Match.CURRENT, None, {})
    delivery = Delivery(
        id=envelope.id,
        kind=envelope.kind,
        event=event.name,
        session_id=event.session_id,
        received_at=envelope.received_at,
        signed_with=envelope.signed_with,
        signed_at=None,
        headers={},
        body=body,
        receipts=1,
        inbox="baseline",
    )
    change = session_of(event)
    # A connection must not cross a fork, so a job that has a fork of its own opens one of its own.
    with create_ledger_engine(os.environ[DATABASE_VARIABLE]).begin() as ledger:
        deliveries.store(ledger, [delivery], {delivery.id: (DeliveryState.SETTLED, None)})
        sessions.merge(ledger, {change.session_id: lambda known: merge(known, change)})
