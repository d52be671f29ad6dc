"""What the ledger forgets: by age (retention), and on request (erasure)."""
