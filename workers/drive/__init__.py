"""Client of the Drive API and of the token module of Roam OCPI: `client` does the I/O, the other modules are pure.

requests -> client (rate limit, retries, HTTP) -> responses -> models
"""
