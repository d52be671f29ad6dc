"""Runs handlers on batches and commits their outcomes to the ledger."""
