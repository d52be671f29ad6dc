"""Fills a ledger in bulk with what weeks of charging leave behind: a million deliveries in a minute or two."""

import gc
import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from random import Random
from typing import Any

from sqlalchemy import Engine, Table
from sqlalchemy.schema import CreateIndex, DropIndex

from handlers.kit.session import EVENT, DriverAssignment, FeeNotice, Session, StatusTimes
from ingest.wire.envelope import Kind
from ingest.wire.signature import Match
from workers.alerts.alerts import AlertKind
from workers.ledger.audit_log import AuditAct
from workers.ledger.database.bulk_insert import insert_form
from workers.ledger.database.migrate import migrate
from workers.ledger.fee_warnings import HANDLER as WARN
from workers.ledger.fee_warnings import TOO_LATE
from workers.ledger.recorded_runs import join_names
from workers.ledger.sessions import row_of
from workers.ledger.states import WHOLE_DELIVERY, DeliveryState, Outcome, PushState
from workers.ledger.tables import metadata

CHUNK = 2_000
"""Sessions whose rows are made before they are written."""
OF_A_SESSION = 4
"""Deliveries: it starts, stops, is complete, and has a CDR, a fee notice or an event that nobody handles."""
SESSIONS_OF_A_DRIVER = 100
SESSIONS_OF_THE_FLEET = 2_000
FLEET = "fleet@example.com"
RECORD, CDR, POINTS = "session_record", "cdr_record", "add_points"
MINUTE = timedelta(minutes=1)
LASTS = 45 * MINUTE
HEADERS = {"content-type": "application/json"}
ERRORS = ("KeyError: 'points'", "ConnectionError: refused", "ValueError: no such tariff")
TRACEBACK = (
    'Traceback (most recent call last):\n  File "/srv/app/loyalty.py", line {}, in add_points\n    points()\n{}\n'
)
PRAGMAS = ("journal_mode = OFF", "synchronous = OFF", "cache_size = -262144")

Values = Mapping[str, Any]
Write = Callable[[Table, Sequence[Values]], None]
TABLES = {table.name: table for table in metadata.sorted_tables}
EMPTY: Mapping[str, dict[str, Any]] = {name: dict.fromkeys(table.c.keys()) for name, table in TABLES.items()}


@dataclass(frozen=True)
class LargeLedger:
    """How much is in a ledger, and over how many days, of which the last one ends now."""

    deliveries: int
    days: float = 30.0
    seed: int = 1

    @property
    def sessions(self) -> int:
        """How many sessions they are of."""
        return max(self.deliveries // OF_A_SESSION, 1)

    def session(self, number: int) -> str:
        """Return the id of a session."""
        return f"S{number:07d}"

    def driver(self, number: int) -> str:
        """Return the driver of a session; one of them has many more than the others."""
        if number % max(self.sessions // SESSIONS_OF_THE_FLEET, 2) == 0:
            return FLEET
        return f"driver-{self._person(number)}@example.com"

    def key(self, number: int) -> str:
        """Return the charging key that a session began with."""
        return f"04a1{self._person(number):08x}"

    def every(self, number: int, wanted: int) -> bool:
        """Return whether a session is one of `wanted`, at most a fiftieth, that are spread over all of them."""
        return number % max(self.sessions // wanted, 50) == 0

    def _person(self, number: int) -> int:
        return number % max(self.sessions // SESSIONS_OF_A_DRIVER, 1)


def fill_ledger(engine: Engine, size: LargeLedger, progress: Callable[[float], object] = lambda _share: None) -> None:
    """Create the tables and fill them; `progress` is told which share of the sessions is done."""
    migrate(engine.url.render_as_string(hide_password=False))
    rows = PastRows(size)
    with _without_garbage_collection(), _bulk_writer(engine) as write:
        for start in range(0, size.sessions, CHUNK):
            chunk = range(start, min(start + CHUNK, size.sessions))
            for name, made in rows.of_sessions(chunk).items():
                write(TABLES[name], made)
            progress(chunk.stop / size.sessions)
        for name, made in rows.of_the_installation().items():
            write(TABLES[name], made)


class PastRows:
    """Makes the rows, as workers write them."""

    def __init__(self, size: LargeLedger) -> None:
        self._size = size
        self._random = Random(size.seed)
        self._now = datetime.now(UTC)
        self._began_at = self._now - timedelta(days=size.days)
        self._span = timedelta(days=size.days) - LASTS - MINUTE
        self._rows: dict[str, list[Values]] = {}

    def of_sessions(self, numbers: range) -> Mapping[str, Sequence[Values]]:
        """Return the rows of these sessions by table."""
        self._rows = defaultdict(list)
        for number in numbers:
            self._session(number, self._began_at + self._span * (number / self._size.sessions))
        return self._rows

    def of_the_installation(self) -> Mapping[str, Sequence[Values]]:
        """Return the rows that belong to no session, by table."""
        self._rows = defaultdict(list)
        for number in range(max(self._size.sessions // SESSIONS_OF_A_DRIVER, 1)):
            user = f"driver-{number}@example.com"
            self._add("devices", token=self._id(), user_id=user, platform="android", updated_at=self._at(number))
        for number, act in zip(range(5_000), list(AuditAct) * 5_000, strict=False):
            at = self._at(number)
            self._add("audit", id=self._id(), at=at, actor=f"p{number % 9}", origin="::1", act=act, count=1)
        for number, kind in zip(range(1_000), list(AlertKind) * 1_000, strict=False):
            at = self._at(number)
            told = {"logged_at": at, "told_at": at, "resolved_at": at + MINUTE if number % 50 else None}
            about = {"kind": kind, "subject": f"subject {number}", "sentence": "Something happened. Look at it."}
            self._add("alerts", id=self._id(), raised_at=at, **about, **told)
        for number in range(50):
            closed_at = self._at(number)
            times = {"closed_at": closed_at, "opened_at": closed_at + MINUTE, "noticed_at": closed_at + MINUTE}
            self._add("gaps", inbox="here", **times, covered_at=closed_at + LASTS, sessions_read=9, users_failed=0)
        return self._rows

    def _session(self, number: int, at: datetime) -> None:
        size, session, user = self._size, self._size.session(number), self._size.driver(number)
        stopped_at, complete_at, fee_at = at + 30 * MINUTE, at + 31 * MINUTE, at + 25 * MINUTE
        key, sources = size.key(number), frozenset({EVENT})
        statuses = {"STARTED": at, "STOPPED": stopped_at, "COMPLETE": complete_at}
        fees = {"BLOCKING": FeeNotice(at + 15 * MINUTE, fee_at, EVENT)} if number % 10 == 1 else {}
        record = Session(
            session,
            {status: StatusTimes(when, when, sources) for status, when in statuses.items()},
            {user: DriverAssignment(at, EVENT)},
            fees,
        )
        self._rows["sessions"].append(row_of(record, complete_at))
        self._delivery("SESSION_STARTED", session, at, ((RECORD, Outcome.DONE),), userId=user)
        self._delivery("SESSION_STOPPED", session, stopped_at, ((RECORD, Outcome.DONE),))
        points = Outcome.DEAD if size.every(number, 2_000) else Outcome.DONE
        self._delivery("SESSION_COMPLETE", session, complete_at, ((RECORD, Outcome.DONE), (POINTS, points)))
        if number % 2 == 0:
            self._cdr(number, session, user, key, at)
        elif fees:
            self._notice(number, session, user, at + 15 * MINUTE, fee_at)
        elif size.every(number - 7, 200):
            self._delivery(None, None, at, (), state=DeliveryState.UNREADABLE, reason="is not JSON")
        else:
            self._delivery("SESSION_UPDATED", session, at + MINUTE, ((WHOLE_DELIVERY, Outcome.IGNORED),))
        decision = "BLOCKED" if number % 50 == 3 else "ALLOWED"
        answer = {"form": "plugsurfing", "decision": decision, "policy": "key_list", "latency_us": number % 9000}
        about = {"session_id": session, "key": key, "location_id": f"loc-{number % 997}", "country_code": "DE"}
        self._add("authorizations", id=self._id(), at=at - MINUTE, repeated=False, **answer, **about)

    def _cdr(self, number: int, session: str, user: str, key: str, at: datetime) -> None:
        # A hundredth contradicts the one before, another one repeats it.
        request = number - 2 if number % 200 in {2, 102} else number
        amount = Decimal(100 + (number if number % 200 == 2 else request) % 5_000) / 100
        currency = ("EUR", "SEK", "CHF")[request % 3]
        body = {"requestId": f"r-{request}", "userId": user, "cost": {"amount": str(amount), "currency": currency}}
        received_at = at + 40 * MINUTE
        done = ((CDR, Outcome.DONE),)
        delivery_id = self._delivery(None, session, received_at, done, kind=Kind.CDRS, document=body)
        content = hashlib.sha256(f"{request} {amount}".encode()).hexdigest()[:32]
        times = {"started_at": at, "ended_at": at + 30 * MINUTE, "received_at": received_at, "recorded_at": received_at}
        about = {"request_id": f"r-{request}", "identity": f"r-{request}", "content": content, "session_id": session}
        cost = {"amount": amount, "currency": currency, "energy_kwh": Decimal("12.340")}
        parties = {"user_id": user if number % 20 else None, "charging_key": key, "operator": "Example Charging"}
        rest = {"location": f"loc-{number % 997}", "notes": [], "document": str(body)}
        self._add("cdrs", delivery_id=delivery_id, position=0, **about, **cost, **parties, **times, **rest)

    def _notice(self, number: int, session: str, user: str, at: datetime, fee_at: datetime) -> None:
        fields = {"feeType": "BLOCKING", "feeWillApplyFrom": fee_at.isoformat()}
        if number % 100 == 1:
            late = ((WARN, Outcome.MOOT),)
            self._delivery("SESSION_FEE_INCURRING", session, at, late, **fields)
            return
        notice = self._delivery("SESSION_FEE_INCURRING", session, at, ((WARN, Outcome.DONE),), **fields)
        is_dead = self._size.every(number - 11, 500)
        state = PushState.DEAD if is_dead else PushState.SENT
        payload = {"session_id": session, "fee_type": "BLOCKING", "fee_will_apply_from": fee_at.isoformat()}
        text = {"title": "A blocking fee is near", "body": "Move your car.", "payload": payload}
        keys = {"collapse_key": f"fee:{session}", "idempotency_key": f"fee:{session}:{fee_at.isoformat()}"}
        sent = {"error": "UNREGISTERED: gone"} if is_dead else {"sent_at": at + timedelta(seconds=1)}
        made = {"created_at": at, "expires_at": fee_at, "even_if_over": False, "attempts": 1, **sent}
        about = {"delivery_id": notice, "handler": WARN, "session_id": session, "user_id": user, "channel": "fcm"}
        self._add("pushes", id=self._id(), state=state, **about, **text, **keys, **made)

    def _delivery(  # noqa: PLR0913 - the columns of a row
        self,
        event: str | None,
        session: str | None,
        at: datetime,
        outcomes: Sequence[tuple[str, Outcome]],
        *,
        kind: Kind = Kind.EVENTS,
        state: DeliveryState | None = None,
        reason: str | None = None,
        document: Mapping[str, Any] | None = None,
        **fields: str,
    ) -> str:
        delivery_id, received_at = self._id(), at + timedelta(seconds=1)
        settled_at = received_at + timedelta(milliseconds=20)
        if state is None:
            is_dead = any(outcome is Outcome.DEAD for _, outcome in outcomes)
            state = DeliveryState.DEAD if is_dead else DeliveryState.SETTLED
        payload = {"sessionId": session, "timestamp": at.isoformat(), **fields}
        body = str(document or {"event": event, "payload": payload}).replace("'", '"').encode()
        came = {"received_at": received_at, "stored_at": received_at, "settled_at": settled_at}
        parts = {"headers": HEADERS, "body": body, "inbox": "here", "signed_with": Match.CURRENT}
        named = {"event": event, "session_id": session, "state": state, "reason": reason}
        recorded = [handler for handler, outcome in outcomes if handler == RECORD and outcome is Outcome.DONE]
        self._add(
            "deliveries", id=delivery_id, kind=kind, recorded_by=join_names(recorded) or None, **named, **came, **parts
        )
        for handler, outcome in outcomes:
            if handler in recorded:
                continue
            ended: dict[str, Any] = {"queue": "sessions", "attempts": 1, "deaths": 0, "finished_at": settled_at}
            if outcome is Outcome.MOOT:
                ended |= {"reason": TOO_LATE}
            if outcome is Outcome.DEAD:
                line = self._random.randrange(3)
                ended |= {"error": ERRORS[line], "traceback": TRACEBACK.format(line, ERRORS[line]), "attempts": 5}
            self._add("runs", delivery_id=delivery_id, handler=handler, outcome=outcome, **ended)
        if self._random.random() < 0.01:
            self._add("sightings", delivery_id=delivery_id, inbox="here", receipts=2)
        return delivery_id

    def _add(self, table: str, **values: Any) -> None:
        self._rows[table].append(EMPTY[table] | values)

    def _id(self) -> str:
        return f"{self._random.getrandbits(128):032x}"

    def _at(self, number: int) -> datetime:
        return self._now - MINUTE * (number + 1)


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """Leave millions of rows, none of them in a circle, to their reference counts: it saves a quarter of the time."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@contextmanager
def _bulk_writer(engine: Engine) -> Iterator[Write]:
    """Yield what writes rows without their indexes, which are faster made at once than row by row."""
    dialect = engine.dialect
    indexes = [index for table in metadata.sorted_tables for index in table.indexes]
    pooled = engine.raw_connection()
    connection: Any = pooled.driver_connection
    is_sqlite = dialect.name == "sqlite"
    try:
        for pragma in PRAGMAS if is_sqlite else ():
            connection.execute(f"PRAGMA {pragma}").fetchall()
        connection.execute("BEGIN" if is_sqlite else "SET LOCAL maintenance_work_mem = '256MB'")
        for index in indexes:
            connection.execute(str(DropIndex(index).compile(dialect=dialect)))

        def write(table: Table, rows: Sequence[Values]) -> None:
            form = insert_form(table, dialect)
            values = zip(*form.bind(rows).values(), strict=True)
            if is_sqlite:
                connection.executemany(f"{form.statement} VALUES ({', '.join('?' * len(table.c))})", values)
                return
            names = ", ".join(form.converters)
            with connection.cursor() as cursor, cursor.copy(f"COPY {table.name} ({names}) FROM STDIN") as copy:
                for each in values:
                    copy.write_row(each)

        yield write
        for index in indexes:
            connection.execute(str(CreateIndex(index).compile(dialect=dialect)))
        connection.execute("COMMIT")
        if is_sqlite:
            connection.execute("PRAGMA journal_mode = WAL").fetchall()
        else:  # as autovacuum does by and by
            connection.autocommit = True
            connection.execute("VACUUM (ANALYZE)")
    finally:
        pooled.invalidate()  # it is not as the pool made it
