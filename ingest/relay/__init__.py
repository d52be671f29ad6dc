"""Moves deliveries from the inbox to Redis, and publishes again what is lost there."""
