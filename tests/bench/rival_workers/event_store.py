"""The database work of a rival's worker: decode events, insert deliveries, upsert their sessions, commit.

It runs in the environment of the rival. A table has one row for each event that is done, with the time at which it was.
"""

import hashlib
import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psycopg
from pydantic import BaseModel

DATABASE_VARIABLE = "RIVAL_DATABASE"
BROKER_VARIABLE = "RIVAL_BROKER"
EVENTS_FILE = "events"
"""In the working directory: what a queue is filled with, one body a line."""

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


def events() -> list[str]:
    return Path(EVENTS_FILE).read_text().splitlines()


def columns(bodies: Sequence[str]) -> tuple[list[list[Any]], list[list[Any]]]:
    """Return the columns of deliveries, and of sessions as their latest events say."""
    rows, latest = [], {}
    for each in bodies:
        event = Event.model_validate_json(each)
        at, session_id = event.payload.timestamp, event.payload.sessionId
        rows.append((hashlib.sha256(each.encode()).hexdigest(), session_id, event.event, at, each, time.time()))
        if session_id not in latest or at > latest[session_id][3]:
            latest[session_id] = (session_id, event.payload.userId, event.event, at)
    return [list(column) for column in zip(*rows, strict=True)], [
        list(column) for column in zip(*latest.values(), strict=True)
    ]


_of_thread = threading.local()


def store(body: str) -> None:
    """Store one event, over a connection that its thread keeps."""
    if not hasattr(_of_thread, "connection"):
        _of_thread.connection = psycopg.connect(os.environ[DATABASE_VARIABLE], cursor_factory=psycopg.RawCursor)
    delivery, session = columns([body])
    with _of_thread.connection.transaction():
        _of_thread.connection.execute(INSERT, delivery)
        _of_thread.connection.execute(UPSERT, session)
