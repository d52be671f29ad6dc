"""Reports `serve` of one data folder in the registry of processes, with the state of its inbox, and logs who is gone.

request -> envelope -> inbox -> [relay] -> jobs -> handler -> ledger
"""

import time
from dataclasses import replace

import redis

from ingest.queue.process_monitor import ProcessMonitor
from ingest.queue.process_registry import NodeReport, ProcessRecord, ProcessRegistry, ProcessType
from ingest.relay.outbox import Outbox


class RelayHeartbeat:
    """The heartbeat of the relay that leads. Its methods raise QueueUnavailable or sqlite3.Error."""

    def __init__(self, outbox: Outbox, connection: redis.Redis) -> None:
        self._outbox = outbox
        self._registry = ProcessRegistry(connection)
        self._monitor = ProcessMonitor()
        self._record = replace(ProcessRecord.of_this_process(ProcessType.SERVE), id=outbox.inbox_id)

    def beat(self, *, erasure_since: float | None = None) -> None:
        """Report this node if it is time, and log which workers and clocks are gone.

        `erasure_since` is when the oldest order to erase was given that is not carried out.
        """
        if not self._registry.is_due:
            return
        now = time.time()
        oldest = {name: max(0.0, now - at.timestamp()) for name, at in self._outbox.oldest_unsettled().items()}
        waiting_since = self._outbox.waiting_since()
        report = NodeReport(
            self._outbox.quarantined_since(now - NodeReport.SPAN.total_seconds()),
            oldest,
            self._outbox.waiting_count(),
            None if waiting_since is None else max(0.0, now - waiting_since.timestamp()),
            None if erasure_since is None else max(0.0, now - erasure_since),
        )
        self._monitor.log_changes(self._monitor.update(self._registry.beat(replace(self._record, node=report))))

    def stop(self) -> None:
        """Report that this node ends."""
        self._registry.stop(self._record)
