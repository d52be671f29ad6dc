"""Run migrations on the connection, and in the transaction, that `workers.ledger.database.migrate` has opened."""

from alembic import context

branch = context.config.attributes["branch"]
context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=branch.metadata,
    version_table=branch.version_table,
    # SQLite can roll DDL back too: `create_ledger_engine` begins its transactions explicitly.
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
