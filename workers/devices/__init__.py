"""Drivers' devices: the HTTP API that registers them, and their lookup."""
