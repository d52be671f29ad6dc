"""Push channels: how a push reaches a driver's phone."""
