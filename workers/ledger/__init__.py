"""The database: deliveries, their runs, sessions, pushes, alerts, and what is read from the Drive API."""
