"""`webhooks check`: what works and what would fail."""
