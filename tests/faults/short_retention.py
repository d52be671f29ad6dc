"""Run one of our commands so that hours see what years do: `python -m tests.faults.short_retention COMMAND`.

Retention looks every few seconds for what is too old, and spares a delivery no longer than the inbox knows its
duplicates. The settings, which are in spans of any length, do the rest.
"""

from datetime import timedelta

from ingest.relay import relay_loop
from workers import cli
from workers.privacy import retention

if __name__ == "__main__":
    relay_loop.PRUNE_EVERY = timedelta(seconds=30)
    retention.DUPLICATES_MARGIN = timedelta()
    retention.FULL_PASS_EVERY = timedelta(seconds=30)
    retention.RetentionTask.every = timedelta(seconds=5)
    cli.main()
