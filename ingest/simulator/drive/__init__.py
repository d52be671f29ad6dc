"""A simulated Drive API and Roam OCPI, for `webhooks dev` and for tests."""
