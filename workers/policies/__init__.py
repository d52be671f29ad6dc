"""Evaluate policies in processes of their own, so that whatever a policy does, the response is in time."""
