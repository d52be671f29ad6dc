"""The tables of deliveries, runs, sessions, pushes and devices, the same on SQLite and PostgreSQL."""

from json import JSONEncoder
from typing import Any

from sqlalchemy import false, func, text
from sqlalchemy.schema import CheckConstraint, Column, Index, MetaData, PrimaryKeyConstraint, Table, UniqueConstraint
from sqlalchemy.types import JSON, Boolean, Integer, String, Text

from handlers.kit.column_types import BinaryCollatedText, EnumText, UntrustedText, UtcDateTime
from ingest.wire.signature import Match
from workers.ledger.states import BodyDeletion, DeliveryState, Outcome, PushState
from workers.ledger.tables.body_compression import CompressedBytes

#: Formats JSON for the ledger; made once, for an encoder costs more to make than to use.
to_json = JSONEncoder(separators=(",", ":")).encode

metadata = MetaData()


def partial_index(name: str, *columns: Column[Any], where: str, unique: bool = False) -> None:
    """Add an index of the rows that match a condition."""
    Index(name, *columns, unique=unique, sqlite_where=text(where), postgresql_where=text(where))


# One row with the id that a migration makes up. `serve` reads it, too: see `ingest.relay.ledger_binding`.
ledger_identity = Table(
    "ledger_identity",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("id", String, nullable=False),
    # The migration that a version must know to work with this ledger, if any may not: see `schema_state`.
    Column("compatible_from", String),
    CheckConstraint("number = 1", name="ledger_identity_one_row"),
)

deliveries = Table(
    "deliveries",
    metadata,
    Column("id", BinaryCollatedText, primary_key=True),
    Column("kind", String, nullable=False),
    Column("event", String),
    Column("session_id", BinaryCollatedText),
    Column("received_at", UtcDateTime, nullable=False),
    Column("signed_with", String, nullable=False),
    Column("signed_at", UtcDateTime),
    Column("headers", JSON, nullable=False),
    Column("body", CompressedBytes, nullable=False),
    Column("inbox", BinaryCollatedText, nullable=False),
    Column("state", EnumText(DeliveryState), nullable=False),
    Column("reason", UntrustedText),
    Column("stored_at", UtcDateTime, nullable=False),
    Column("settled_at", UtcDateTime),
    Column("body_deleted_at", UtcDateTime),
    Column("body_deletion", EnumText(BodyDeletion)),
    # The record functions that succeeded when it was stored, "one,another": see `workers.ledger.recorded_runs`.
    Column("recorded_by", String),
    Index("deliveries_received_at", "received_at"),
    Index("deliveries_session", "session_id", "received_at"),
)
# Nearly all are settled, and a list of those is one of all: the others are few.
IS_NOT_SETTLED = text("state <> 'settled'")
partial_index("deliveries_not_settled", deliveries.c.state, deliveries.c.received_at, where=IS_NOT_SETTLED.text)
# Every session has these, so a list of one of them finds it soon among all deliveries. The others are few.
COMMON_EVENTS = frozenset({"SESSION_STARTED", "SESSION_STOPPED", "SESSION_COMPLETE"})
partial_index(
    "deliveries_rare_events",
    *(deliveries.c.event, deliveries.c.received_at),
    where=f"event NOT IN ({', '.join(repr(event) for event in sorted(COMMON_EVENTS))})",
)

# Nearly all are signed with CURRENT, and a list of those is one of all.
IS_OF_OTHER_KEY = text(f"signed_with <> '{Match.CURRENT}'")
partial_index(
    "deliveries_other_keys",
    *(deliveries.c.signed_with, deliveries.c.received_at),
    where=IS_OF_OTHER_KEY.text,
)

# The record function of this package. Deliveries that others have recorded are found by an index of these alone.
USUAL_RECORD = "session_record"
partial_index("deliveries_other_records", deliveries.c.recorded_by, where=f"recorded_by <> '{USUAL_RECORD}'")

# How often each inbox has received a delivery, where that is more than the one receipt of its row in `deliveries`. Each
# inbox counts its own, and counts only grow: so they may arrive twice, late, and in any order.
receipts = Table(
    "sightings",
    metadata,
    Column("delivery_id", BinaryCollatedText),
    Column("inbox", BinaryCollatedText),
    Column("receipts", Integer, nullable=False),
    PrimaryKeyConstraint("delivery_id", "inbox"),
)

# `due_at` is set exactly while a run is waiting or to be tried again: without it a run would be stuck. `waits_for` and
# `until_at` are set only while a run is open. So the partial indexes have open runs only, and a comparison with the
# column lets both databases use them.
runs = Table(
    "runs",
    metadata,
    Column("delivery_id", BinaryCollatedText),
    Column("handler", BinaryCollatedText),
    Column("queue", String, nullable=False),
    Column("outcome", EnumText(Outcome), nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("deaths", Integer, nullable=False),
    Column("due_at", UtcDateTime),
    Column("until_at", UtcDateTime),
    Column("waits_for", BinaryCollatedText),
    Column("job_id", BinaryCollatedText),
    Column("reason", UntrustedText),
    Column("error", UntrustedText),
    Column("traceback", UntrustedText),
    Column("started_at", UtcDateTime),
    Column("finished_at", UtcDateTime),
    PrimaryKeyConstraint("delivery_id", "handler"),
    CheckConstraint("(due_at IS NOT NULL) = (outcome IN ('waiting', 'again'))", name="runs_due_while_to_come"),
)
partial_index("runs_due", runs.c.due_at, where="due_at IS NOT NULL")
partial_index("runs_offered", runs.c.job_id, where="due_at IS NOT NULL AND job_id IS NOT NULL")
partial_index("runs_ready", runs.c.queue, runs.c.handler, runs.c.due_at, where="due_at IS NOT NULL AND job_id IS NULL")
partial_index("runs_until", runs.c.until_at, where="until_at IS NOT NULL")
partial_index("runs_waits_for", runs.c.waits_for, where="waits_for IS NOT NULL")
partial_index("runs_running", runs.c.started_at, where="outcome = 'running'")
# The runs that have failed and are tried again.
IS_FAILING = text("outcome IN ('again', 'running') AND error IS NOT NULL")
partial_index("runs_failing", runs.c.handler, where=IS_FAILING.text)
partial_index("runs_dead", runs.c.job_id, where="outcome = 'dead'")
Index("runs_of_handler", runs.c.handler, runs.c.finished_at)
# Its first column has one value, so that SQLite, without statistics, prefers it to the index above.
partial_index("runs_dead_of_handler", runs.c.outcome, runs.c.handler, runs.c.finished_at, where="outcome = 'dead'")

sessions = Table(
    "sessions",
    metadata,
    Column("session_id", BinaryCollatedText, primary_key=True),
    Column("user_id", String),
    Column("status", String),
    Column("started_at", UtcDateTime),
    Column("stopped_at", UtcDateTime),
    Column("completed_at", UtcDateTime),
    Column("fee_type", String),
    Column("fee_will_apply_from", UtcDateTime),
    Column("anomalies", JSON, nullable=False),
    Column("facts", JSON, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
    Index("sessions_updated_at", "updated_at"),
)
# People look for a driver in any case.
Index(
    "sessions_user",
    func.lower(sessions.c.user_id).label("person"),
    postgresql_ops={"person": "text_pattern_ops"},  # also by the beginning of an id
)
# The sessions that have not ended: FINAL_STATUSES of handlers.kit.statuses, which a test compares.
IS_OPEN = text("status NOT IN ('START_FAILED', 'STOPPED', 'COMPLETE')")
partial_index("sessions_open", sessions.c.started_at, where=IS_OPEN.text)

pushes = Table(
    "pushes",
    metadata,
    Column("id", BinaryCollatedText, primary_key=True),
    Column("delivery_id", BinaryCollatedText, nullable=False),
    Column("handler", BinaryCollatedText, nullable=False),
    Column("session_id", BinaryCollatedText),
    Column("user_id", String, nullable=False),
    Column("channel", String, nullable=False),
    Column("state", EnumText(PushState), nullable=False),
    Column("title", Text, nullable=False),
    Column("body", Text, nullable=False),
    Column("payload", JSON, nullable=False),
    Column("collapse_key", String, nullable=False),
    Column("idempotency_key", BinaryCollatedText),
    Column("expires_at", UtcDateTime),
    Column("event_at", UtcDateTime),
    Column("even_if_over", Boolean, nullable=False, server_default=false()),
    Column("created_at", UtcDateTime, nullable=False),
    Column("due_at", UtcDateTime),
    Column("sent_at", UtcDateTime),
    Column("attempts", Integer, nullable=False),
    Column("error", UntrustedText),
    Column("told", JSON(none_as_null=True)),
    UniqueConstraint("channel", "user_id", "idempotency_key", name="pushes_idempotency_key"),
    CheckConstraint("(due_at IS NOT NULL) = (state = 'waiting')", name="pushes_due_while_waiting"),
    Index("pushes_created_at", "created_at"),
    Index("pushes_session", "session_id"),
    Index("pushes_state", "state", "created_at"),
    Index("pushes_channel", "channel", "created_at"),
)
Index("pushes_user", func.lower(pushes.c.user_id))
partial_index("pushes_due", pushes.c.due_at, where="due_at IS NOT NULL")

# A token is one app on one phone: if another driver signs in there, it becomes theirs.
devices = Table(
    "devices",
    metadata,
    Column("token", BinaryCollatedText, primary_key=True),
    Column("user_id", BinaryCollatedText, nullable=False),
    Column("platform", String),
    Column("locale", String),
    Column("time_zone", String),
    Column("updated_at", UtcDateTime, nullable=False),
    Index("devices_user", "user_id", "updated_at"),
    Index("devices_updated_at", "updated_at"),
)
Index("devices_person", func.lower(devices.c.user_id))
