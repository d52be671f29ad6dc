"""The contract between relay and workers: batches, queues and leases in Redis."""
