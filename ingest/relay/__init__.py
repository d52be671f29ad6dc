"""The relay: publishes deliveries from the inbox to Redis, and again if they are lost there."""
