"""Simulate Plugsurfing: what it sends, how it signs, what goes wrong on the way, and the sending itself."""
