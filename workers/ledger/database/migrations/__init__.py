"""How the tables came to be: run by `workers.ledger.database.migrate` only."""

#: Not Alembic's usual name: another application in the same database may use that.
VERSION_TABLE = "webhooks_schema_version"
