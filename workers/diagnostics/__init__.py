"""Answers to questions of operators: stuck work, key usage, session timelines."""
