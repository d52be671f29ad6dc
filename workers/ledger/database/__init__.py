"""How the ledger's database is reached: engine, transactions, bulk statements, migrations."""
