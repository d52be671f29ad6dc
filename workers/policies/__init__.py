"""Policies are asked in processes of their own, judges, so that whatever one of them does the answer is in time."""
