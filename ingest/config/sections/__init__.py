"""The settings, a chapter a file: `ingest.config.settings` puts them together."""
