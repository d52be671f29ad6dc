"""Client of the Drive API and of the token module of Roam OCPI: `client` does the I/O, the other modules are pure.

drive_requests -> client (rate limit, retries, HTTP) -> drive_responses -> models
"""
