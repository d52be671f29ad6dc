"""`webhooks dev`: all process types in one terminal."""
