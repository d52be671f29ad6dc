"""Create the tables of reconciliation (downtimes, polls of sessions) and of alerts."""

import sqlalchemy as sa

from workers.ledger.database.online_ddl import create_index, create_table

revision = "0005"
down_revision = "0004"

NAME = sa.String().with_variant(sa.String(collation="C"), "postgresql")
MOMENT = sa.String().with_variant(sa.DateTime(timezone=True), "postgresql")


def upgrade() -> None:
    """Create them."""
    create_table(
        "alerts",
        sa.Column("id", NAME, primary_key=True),
        sa.Column("kind", NAME, nullable=False),
        sa.Column("subject", NAME, nullable=False),
        sa.Column("sentence", sa.Text, nullable=False),
        sa.Column("session_id", NAME),
        sa.Column("delivery_id", NAME),
        sa.Column("raised_at", MOMENT, nullable=False),
        sa.Column("logged_at", MOMENT),
        sa.Column("due_at", MOMENT),
        sa.Column("told", sa.JSON),
        sa.Column("told_at", MOMENT),
        sa.Column("resolved_at", MOMENT),
    )
    create_index("alerts_kind_subject", "alerts", ["kind", "subject", "resolved_at"])
    create_index("alerts_raised_at", "alerts", ["raised_at"])
    create_index("alerts_open", "alerts", ["kind", "subject"], where="resolved_at IS NULL", unique=True)
    create_index("alerts_unlogged", "alerts", ["raised_at"], where="logged_at IS NULL")
    create_index("alerts_due", "alerts", ["due_at"], where="due_at IS NOT NULL")
    create_index("runs_offered", "runs", ["job_id"], where="due_at IS NOT NULL AND job_id IS NOT NULL")
    create_index("runs_dead_of", "runs", ["handler", "finished_at"], where="outcome = 'dead'")
    not_over = "status NOT IN ('START_FAILED', 'STOPPED', 'COMPLETE')"
    create_index("sessions_open", "sessions", ["started_at"], where=not_over)
    _make_rereads()
    _make_gaps()


def _make_rereads() -> None:
    create_table(
        "rereads",
        sa.Column("session_id", NAME, primary_key=True),
        sa.Column("outcome", sa.String, nullable=False),
        sa.Column("enrolled_at", MOMENT, nullable=False),
        sa.Column("next_at", MOMENT),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("read_at", MOMENT),
        sa.Column("status", sa.String),
        sa.Column("status_at", MOMENT),
        sa.Column("reason", sa.Text),
        sa.CheckConstraint("next_at IS NOT NULL OR outcome NOT IN ('waiting', 'open')", name="rereads_due_while_open"),
    )
    create_index("rereads_next", "rereads", ["next_at"], where="next_at IS NOT NULL")


def _make_gaps() -> None:
    create_table(
        "gaps",
        sa.Column("inbox", NAME),
        sa.Column("closed_at", MOMENT),
        sa.Column("opened_at", MOMENT, nullable=False),
        sa.Column("noticed_at", MOMENT, nullable=False),
        sa.Column("covered_at", MOMENT),
        sa.Column("sessions_read", sa.Integer, nullable=False),
        sa.Column("after_user", NAME),
        sa.Column("users_failed", sa.Integer, nullable=False),
        sa.Column("claimed_until", MOMENT),
        sa.PrimaryKeyConstraint("inbox", "closed_at"),
    )
    create_index("gaps_open", "gaps", ["opened_at"], where="covered_at IS NULL")
