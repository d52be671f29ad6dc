"""Runs migrations on the connection, and in the transaction, that `workers.ledger.database.migrate` has opened."""

from alembic import context

from workers.ledger.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    # SQLite can take tables back as well: `open_ledger` begins its transactions for real.
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
