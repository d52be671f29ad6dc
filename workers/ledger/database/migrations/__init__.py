"""How the tables came to be: run by `workers.ledger.database.migrate` only."""
