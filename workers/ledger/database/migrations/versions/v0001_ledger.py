"""Create the tables of the first version."""

import sqlalchemy as sa

from workers.ledger.database.online_ddl import create_index, create_table

revision = "0001"
down_revision = None

NAME = sa.String().with_variant(sa.String(collation="C"), "postgresql")
MOMENT = sa.String().with_variant(sa.DateTime(timezone=True), "postgresql")


def upgrade() -> None:
    """Create all of them."""
    create_table(
        "deliveries",
        sa.Column("id", NAME, primary_key=True),
        sa.Column("kind", sa.String, nullable=False),
        sa.Column("event", sa.String),
        sa.Column("session_id", NAME),
        sa.Column("received_at", MOMENT, nullable=False),
        sa.Column("signed_with", sa.String, nullable=False),
        sa.Column("signed_at", MOMENT),
        sa.Column("headers", sa.JSON, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.Column("inbox", NAME, nullable=False),
        sa.Column("state", sa.String, nullable=False),
        sa.Column("reason", sa.Text),
        sa.Column("stored_at", MOMENT, nullable=False),
        sa.Column("settled_at", MOMENT),
    )
    create_index("deliveries_received_at", "deliveries", ["received_at"])
    create_index("deliveries_session", "deliveries", ["session_id", "received_at"])
    create_index("deliveries_state", "deliveries", ["state", "received_at"])
    create_table(
        "sightings",
        sa.Column("delivery_id", NAME, primary_key=True),
        sa.Column("inbox", NAME, primary_key=True),
        sa.Column("receipts", sa.Integer, nullable=False),
    )
    create_table(
        "runs",
        sa.Column("delivery_id", NAME, primary_key=True),
        sa.Column("handler", NAME, primary_key=True),
        sa.Column("queue", sa.String, nullable=False),
        sa.Column("outcome", sa.String, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("deaths", sa.Integer, nullable=False),
        sa.Column("due_at", MOMENT),
        sa.Column("until_at", MOMENT),
        sa.Column("waits_for", NAME),
        sa.Column("job_id", NAME),
        sa.Column("reason", sa.Text),
        sa.Column("error", sa.Text),
        sa.Column("traceback", sa.Text),
        sa.Column("started_at", MOMENT),
        sa.Column("finished_at", MOMENT),
        sa.CheckConstraint("(due_at IS NOT NULL) = (outcome IN ('waiting', 'again'))", name="runs_due_while_to_come"),
    )
    create_index("runs_due", "runs", ["due_at"], where="due_at IS NOT NULL")
    create_index("runs_until", "runs", ["until_at"], where="until_at IS NOT NULL")
    create_index("runs_waits_for", "runs", ["waits_for"], where="waits_for IS NOT NULL")
    create_index("runs_running", "runs", ["started_at"], where="outcome = 'running'")
    create_index("runs_dead", "runs", ["job_id"], where="outcome = 'dead'")
    create_table(
        "sessions",
        sa.Column("session_id", NAME, primary_key=True),
        sa.Column("user_id", sa.String),
        sa.Column("status", sa.String),
        sa.Column("started_at", MOMENT),
        sa.Column("stopped_at", MOMENT),
        sa.Column("completed_at", MOMENT),
        sa.Column("fee_type", sa.String),
        sa.Column("fee_will_apply_from", MOMENT),
        sa.Column("anomalies", sa.JSON, nullable=False),
        sa.Column("facts", sa.JSON, nullable=False),
        sa.Column("updated_at", MOMENT, nullable=False),
    )
    create_index("sessions_updated_at", "sessions", ["updated_at"])
    create_table(
        "pushes",
        sa.Column("id", NAME, primary_key=True),
        sa.Column("delivery_id", NAME, nullable=False),
        sa.Column("handler", NAME, nullable=False),
        sa.Column("session_id", NAME),
        sa.Column("user_id", sa.String, nullable=False),
        sa.Column("channel", sa.String, nullable=False),
        sa.Column("state", sa.String, nullable=False),
        sa.Column("title", sa.Text, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("payload", sa.JSON, nullable=False),
        sa.Column("collapse_key", sa.String, nullable=False),
        sa.Column("idempotency_key", NAME),
        sa.Column("expires_at", MOMENT),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("due_at", MOMENT),
        sa.Column("sent_at", MOMENT),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("error", sa.Text),
        sa.UniqueConstraint("channel", "user_id", "idempotency_key", name="pushes_idempotency_key"),
        sa.CheckConstraint("(due_at IS NOT NULL) = (state = 'waiting')", name="pushes_due_while_waiting"),
    )
    create_index("pushes_created_at", "pushes", ["created_at"])
    create_index("pushes_session", "pushes", ["session_id"])
    create_index("pushes_due", "pushes", ["due_at"], where="due_at IS NOT NULL")
