"""The names of the queues in Redis, and of the functions that their jobs run."""

URGENT = "urgent"
BACKGROUND = "background"
QUEUES = (URGENT, "sessions", "cdrs", "other", BACKGROUND)
"""In order of priority: a worker serves the first before the others, which take turns.

What is new comes on the first four. In the background run handlers that are slow, failed before, or are replayed.
"""

# The functions of jobs are import strings: `serve` must not import what a plugin can break.
BATCH_JOB = "workers.execution.jobs.work_batch"
RUNS_JOB = "workers.execution.jobs.work_runs"
CLOCK_GONE_JOB = "workers.execution.clock_alert.raise_clock_gone"
