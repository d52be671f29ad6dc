"""The dashboard: rq-dashboard behind a login."""
