"""A simulated Drive API, for tests and for `webhooks dev`."""
