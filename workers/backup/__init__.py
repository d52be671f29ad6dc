"""Backups: a copy of this node's inbox and of a ledger on SQLite, made while everything runs, and restored from."""
