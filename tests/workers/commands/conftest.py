"""A node as the commands find it: settings in the environment, a ledger with a past, an inbox with a present."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis
from click.testing import CliRunner, Result
from sqlalchemy import Engine

from handlers.kit.merge import merge, with_clock_skew
from handlers.kit.session import Session
from handlers.session_records import session_record
from ingest.errors import Unreadable
from ingest.events import SessionEvent, decode, peek, queue_for
from ingest.inbox.schema import FILE_NAME, open_inbox_file
from ingest.queue.batch import Delivery
from ingest.queue.namespace import NamespacedRedis
from ingest.queue.process_registry import ProcessRecord, ProcessRegistry, ProcessType
from ingest.queue.queues import QUEUES
from ingest.wire.envelope import Envelope, Kind
from workers.cli import main
from workers.ledger import deliveries, delivery_states, runs, sessions
from workers.ledger.database.engine import create_ledger_engine
from workers.ledger.database.migrate import migrate
from workers.ledger.runs import RunRecord
from workers.ledger.states import DeliveryState, Outcome

WEBHOOKS = str(Path(sys.executable).with_name("webhooks"))
CLOCK_SKEW = timedelta(minutes=5)
NOON = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)


def event(name: str, session_id: str = "L60XMxWy0oP", *, at: datetime = NOON, **payload: Any) -> bytes:
    """Return the body of a session event."""
    fields = {"sessionId": session_id, "timestamp": at.isoformat(), **payload}
    return json.dumps({"event": name, "payload": fields}).encode()


@dataclass(frozen=True)
class Node:
    """A node whose commands are run in this process."""

    folder: Path
    engine: Engine
    environment: dict[str, str]

    def run(self, *arguments: str, code: int = 0, **environment: str) -> Result:
        """Run a command as a person would; the exit code must be as expected."""
        result = CliRunner(env={**self.environment, **environment}).invoke(main, arguments)
        assert result.exit_code == code, f"{result.output}\n{result.exception!r}"
        return result

    def process(self, *arguments: str, stdin: bytes = b"", **environment: str) -> subprocess.CompletedProcess[bytes]:
        """Run a command as a process of its own."""
        return subprocess.run(
            [WEBHOOKS, *arguments],
            env={**os.environ, **self.environment, **environment},
            cwd=self.folder,
            input=stdin,
            capture_output=True,
            check=False,
        )

    def rows(self, *arguments: str, code: int = 0, **environment: str) -> list[dict[str, Any]]:
        """Run a command with --json and read its lines."""
        return [
            json.loads(line) for line in self.run(*arguments, "--json", code=code, **environment).stdout.splitlines()
        ]

    def settle(  # noqa: PLR0913 - the facts of a delivery
        self,
        body: bytes,
        *outcomes: tuple[str, Outcome],
        kind: Kind = Kind.EVENTS,
        received_at: datetime = NOON,
        signed_with: str = "current",
        receipts: int = 1,
        error: str | None = None,
    ) -> str:
        """Insert a delivery into the ledger, with its finished runs; one that cannot be decoded is unreadable."""
        delivery = delivery_of(body, kind=kind, received_at=received_at, signed_with=signed_with, receipts=receipts)
        try:
            decoded, reason = decode(kind, body), None
        except Unreadable as unreadable:
            decoded, reason = None, str(unreadable)
        state = DeliveryState.RUNNING if decoded else DeliveryState.UNREADABLE
        with self.engine.begin() as conn:
            deliveries.store(conn, [delivery], {delivery.id: (state, reason)})
            runs.insert_runs(conn, [run_of(delivery, handler, outcome, error) for handler, outcome in outcomes])
            if isinstance(decoded, SessionEvent):
                facts = session_record(Session.empty(decoded.session_id), decoded)
                facts = with_clock_skew(facts, decoded.at, received_at, CLOCK_SKEW)
                sessions.merge(conn, {decoded.session_id: partial(merge, facts)})
            delivery_states.refresh_states(conn, [delivery.id])
        return delivery.id

    def keep(self, body: bytes, *, offered: bool = False, received_at: datetime = NOON, key: str = "current") -> str:
        """Insert a delivery into the inbox, as `serve` does."""
        delivery = delivery_of(body, received_at=received_at, signed_with=key)
        file = open_inbox_file(self.folder / FILE_NAME)
        file.execute("INSERT INTO seen VALUES (?, 1, ?)", (delivery.id, time.time()))
        file.execute(
            "INSERT INTO deliveries"
            " (id, kind, queue, event, session_id, received_at, signed_with, headers, body, batch)"
            " VALUES (?, ?, 'sessions', ?, ?, ?, ?, '{}', ?, ?)",
            (
                delivery.id,
                delivery.kind,
                delivery.event,
                delivery.session_id,
                received_at.timestamp(),
                key,
                body,
                "a-batch" if offered else None,
            ),
        )
        file.close()
        return delivery.id


def delivery_of(
    body: bytes,
    *,
    kind: Kind = Kind.EVENTS,
    received_at: datetime = NOON,
    signed_with: str = "current",
    receipts: int = 1,
) -> Delivery:
    """Return the delivery that `serve` makes of a body."""
    envelope = Envelope(kind, body, received_at, signed_with, None, {"content-type": "application/json"})
    seen = peek(kind, body)
    return Delivery(
        id=envelope.id,
        kind=kind,
        event=seen.name,
        session_id=seen.session_id,
        received_at=received_at,
        signed_with=signed_with,
        signed_at=None,
        headers=envelope.headers,
        body=body,
        receipts=receipts,
        inbox="an-inbox",
    )


def run_of(delivery: Delivery, handler: str, outcome: Outcome, error: str | None) -> RunRecord:
    """Return a run that has ended, or is still to come."""
    return RunRecord(
        delivery_id=delivery.id,
        handler=handler,
        queue=queue_for(Kind(delivery.kind), peek(Kind(delivery.kind), delivery.body or b"")),
        outcome=outcome,
        attempts=1,
        due_at=None if outcome.is_final else NOON + timedelta(days=36_500),
        error=error if outcome in {Outcome.DEAD, Outcome.AGAIN} else None,
        traceback=f"Traceback\n{error}" if error and outcome is Outcome.DEAD else None,
        finished_at=delivery.received_at if outcome.is_final else None,
    )


@pytest.fixture(name="event")
def event_writer() -> Callable[..., bytes]:
    """Return what writes bodies."""
    return event


@pytest.fixture
def noon() -> datetime:
    """Return the time of the events."""
    return NOON


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Node]:
    """A node with an empty ledger on SQLite."""
    yield from node_on(f"sqlite:///{tmp_path / 'ledger.db'}", tmp_path, monkeypatch)


@pytest.fixture
def any_node(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Node]:
    """A node with an empty ledger, once on each database."""
    yield from node_on(database_url, tmp_path, monkeypatch)


def node_on(database_url: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Node]:
    monkeypatch.chdir(folder)  # there is no .env
    migrate(database_url)
    engine = create_ledger_engine(database_url)
    yield Node(
        folder,
        engine,
        {
            "DATA_DIR": str(folder),
            "DATABASE_URL": database_url,
            "PLUGSURFING_HMAC_CURRENT": "the-current-key-in-use",
        },
    )
    engine.dispose()


def report_to(connection: redis.Redis, process: ProcessType, **parts: Any) -> None:
    queues = QUEUES if process is ProcessType.WORK else ()
    record = ProcessRecord.of_this_process(process, queues=queues)
    ProcessRegistry(connection).beat(replace(record, **parts))


@pytest.fixture
def valkey_url(valkey_url: str) -> str:
    """The URL of a real Valkey in which a worker and a clock have just reported themselves."""
    with NamespacedRedis(redis.Redis.from_url(valkey_url), os.environ["QUEUE_NAMESPACE"]) as connection:
        for process in (ProcessType.WORK, ProcessType.CLOCK):
            report_to(connection, process)
    return valkey_url


@pytest.fixture
def report(valkey: redis.Redis) -> Callable[..., None]:
    """Report a process of a type, as it would."""

    def report(process: ProcessType, **parts: Any) -> None:
        report_to(valkey, process, **parts)

    return report
