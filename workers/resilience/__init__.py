"""Retries, timeouts, circuit breakers and periodic tasks, without knowledge of what they protect."""
