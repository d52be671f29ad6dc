"""Run migrations on the connection, and in the transaction, that `workers.ledger.database.migrate` has opened."""

from alembic import context

from workers.ledger.database.migrations import VERSION_TABLE
from workers.ledger.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=VERSION_TABLE,
    # SQLite can roll DDL back too: `create_ledger_engine` begins its transactions explicitly.
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
