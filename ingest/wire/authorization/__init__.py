"""Authorization requests and responses as they are written on the wire."""
