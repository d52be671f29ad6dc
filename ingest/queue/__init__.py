"""The contract of relay and workers: batches, queues and leases in Redis."""
