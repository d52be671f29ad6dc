"""The client of the Drive API, and of the one corner of Roam OCPI that concerns us: `client` calls, all else is pure.

question -> [requests] -> client (budget, retries, HTTP) -> [answers] -> models
"""
