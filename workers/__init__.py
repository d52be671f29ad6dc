"""Takes deliveries off the queues, runs handlers, owns the database and every outgoing call; the command line."""
