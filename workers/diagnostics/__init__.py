"""Diagnostics for operators: stuck work, key usage, session timelines."""
