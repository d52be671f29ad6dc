"""The settings, a chapter a file: `ingest.settings` puts them together."""
