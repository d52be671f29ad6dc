"""The RQ worker: its children find everything imported, and its work horse lives on from job to job.

queue -> [worker] -> work horse -> jobs
"""

import contextlib
import gc
import json
import os
import random
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import redis
import structlog
from redis.client import Pipeline
from rq import Queue, Worker
from rq.exceptions import StopRequested
from rq.executions import Execution
from rq.job import Job

from ingest.failpoints import Failpoint, hit
from ingest.queue.installations import Installation
from ingest.queue.namespace import NamespacedRedis
from workers.execution.job_allowlist import AllowlistedJob
from workers.execution.work_horse import UNKNOWN_STATUS, WorkHorse, serve_requests
from workers.execution.worker_heartbeat import WorkerHeartbeat
from workers.installation import announce_quietly
from workers.resilience.hard_timeout import POLL_SECONDS, clear_deadline, is_overdue

log = structlog.get_logger()

# Seconds.
BEAT_EVERY = 1.0
# RQ renews a registration with every job, and every 10 seconds while there is none.
ANNOUNCE_EVERY = 5
# Objects that one batch makes are few enough not to be looked at while it lasts: that takes a tenth of its time.
GC_THRESHOLDS = (100_000, 20, 20)


class PreloadedWorker(Worker):
    """An RQ worker whose children find everything imported already."""

    log_result_lifespan = False
    presence: WorkerHeartbeat | None = None
    """Reports the worker to the other processes, beside RQ's own registry."""
    installation: Installation | None = None
    _beat_at = _announced_at = float("-inf")
    is_stopping = False
    """Whether the process was told to end; the loop of RQ also ends when Redis refuses a command."""
    prepare: Callable[[], object] | None = None
    """Opens the connections of a new work horse, before it has a job."""
    _horse: WorkHorse | None = None
    _is_waiting = False

    def heartbeat(self, timeout: int | None = None, pipeline: Pipeline | None = None) -> None:
        """Renew RQ's registration of the worker and our own, and announce its installation.

        RQ calls it four times a job, with a round trip for each of its three commands. Raise StopRequested where a
        worker that was told to end waits for a job: RQ goes on waiting for a Redis that is away, for ever.
        """
        if self.is_stopping and self._is_waiting:
            raise StopRequested
        if pipeline is not None:
            super().heartbeat(timeout, pipeline)
        elif time.monotonic() > self._beat_at + BEAT_EVERY:
            self._beat_at = time.monotonic()
            with self.connection.pipeline(transaction=False) as pipe:
                super().heartbeat(timeout, pipe)
                pipe.execute()
        if self.presence is not None and not self.is_horse:
            self.presence.beat()
        is_due = time.monotonic() > self._announced_at + ANNOUNCE_EVERY and not self.is_horse
        if is_due and self.installation is not None and isinstance(self.connection, NamespacedRedis):
            self._announced_at = time.monotonic()
            announce_quietly(self.connection, self.installation)

    def set_state(self, state: str, pipeline: Pipeline | None = None) -> None:
        """Write the state of the worker for RQ's dashboard, if it has changed."""
        if pipeline is not None or state != self.get_state():
            super().set_state(state, pipeline)

    def reorder_queues(self, reference_queue: Queue) -> None:
        """Serve the first queue before all others, but not twice in a row while they have jobs; these take turns.

        In strict order, a trickle of urgent jobs that keeps a worker busy would starve the other queues.
        """
        if reference_queue == self.queues[0]:
            self._ordered_queues = [*self._round_robin(), self.queues[0]]
        else:
            others = [each for each in self._round_robin() if each != reference_queue]
            self._ordered_queues = [self.queues[0], *others, reference_queue]

    def _round_robin(self) -> list[Queue]:
        return [each for each in self._ordered_queues if each != self.queues[0]]

    def handle_warm_shutdown_request(self) -> None:
        """Remember that the process is to end."""
        self.is_stopping = True
        super().handle_warm_shutdown_request()  # type: ignore[no-untyped-call]

    def dequeue_job_and_maintain_ttl(self, timeout: int | None, max_idle_time: int | None = None) -> Any:
        """Wait for a job, with a work horse that is ready."""
        self._ready_horse()
        self._is_waiting = True
        try:
            return super().dequeue_job_and_maintain_ttl(timeout, max_idle_time)
        finally:
            self._is_waiting = False

    def maintain_heartbeats(self, job: Job, execution: Execution) -> None:
        """Renew the registrations of the worker and its job, if Redis is there: without it the job goes on, too.

        What is raised here ends the loop of RQ, and the work horse with it, in the middle of its job.
        """
        try:
            super().maintain_heartbeats(job, execution)
        except redis.RedisError as error:
            log.warning("worker.heartbeat_failed", job=job.id, error=type(error).__name__)

    def set_shutdown_requested_date(self) -> None:
        """Write for RQ's dashboard that the worker is to end. Likewise, it ends no job if Redis is away."""
        with contextlib.suppress(redis.RedisError):
            super().set_shutdown_requested_date()  # type: ignore[no-untyped-call]

    def execute_job(self, job: Job, queue: Queue) -> None:
        """Do the job in the work horse, and wait for it."""
        hit(Failpoint.TAKEN)
        super().execute_job(job, queue)

    def fork_work_horse(self, job: Job, queue: Queue) -> None:
        """Send the job to the work horse."""
        execution = self.execution
        if not isinstance(job, AllowlistedJob) or execution is None:
            raise TypeError("the work horse does jobs of ours only")
        request = JobRequest(job.id, job.stored, queue.name, execution.serialize()).encode()
        horse = self._ready_horse()
        self._horse_pid = horse.pid
        with contextlib.suppress(OSError):  # it has just died, and that is noticed by who waits for it
            horse.send(request)

    def wait_for_horse(self) -> tuple[int | None, int | None, Any]:
        """Wait until the work horse has done its job, or has died. Kill it if a handler does not stop in time."""
        horse = self._horse
        if horse is None:
            raise RuntimeError("there is no work horse")
        while not horse.wait(POLL_SECONDS):
            if is_overdue():
                self.kill_horse()
        if horse.has_replied():
            return horse.pid, os.EX_OK, None
        clear_deadline()
        # One that exits with 0 before it has replied has not done its job either.
        return horse.pid, horse.status or UNKNOWN_STATUS, None

    def teardown(self) -> None:
        """End the work horse with its worker, and the thread that listens for RQ's commands even if Redis is away."""
        if self._horse is not None and not self.is_horse:
            self._horse.close()
            self._horse = None
        try:
            super().teardown()  # type: ignore[no-untyped-call]
        finally:
            if self.pubsub_thread is not None:
                self.pubsub_thread.stop()

    def _ready_horse(self) -> WorkHorse:
        if self._horse is not None and not self._horse.is_ready():
            self._horse.close()
            self._horse = None
        if self._horse is None:
            clear_deadline()  # one that was killed left it
            self._horse = WorkHorse(self._do_jobs)
        return self._horse

    def _do_jobs(self, channel: socket.socket) -> None:
        random.seed()
        self.setup_work_horse_signals()  # type: ignore[no-untyped-call]
        self._is_horse = True
        if self.prepare is not None:
            self.prepare()
        gc.freeze()  # what is loaded by now stays in memory that the worker shares
        gc.set_threshold(*GC_THRESHOLDS)
        serve_requests(channel, self._do_job)

    def _do_job(self, request: bytes) -> bool:
        wanted = JobRequest.decode(request)
        job = self.job_class(wanted.job_id, connection=self.connection, serializer=self.serializer)
        job.restore(wanted.stored)
        job.redis_server_version = self.redis_server_version
        execution = Execution(wanted.execution["id"], wanted.job_id, self.connection, self.name)
        execution.restore({name.encode(): str(value).encode() for name, value in wanted.execution.items()})
        served = next(each for each in self.queues if each.name == wanted.queue)
        return self.perform_job(job, served, execution)


@dataclass(frozen=True)
class JobRequest:
    """A job, as a worker sends it to its work horse."""

    job_id: str
    stored: Mapping[bytes, bytes]
    """The job's hash in Redis."""
    queue: str
    execution: Mapping[str, Any]
    """RQ's record of the attempt."""

    def encode(self) -> bytes:
        """Encode it in one line."""
        stored = {name.decode(): value.decode("latin-1") for name, value in self.stored.items()}
        return json.dumps([self.job_id, stored, self.queue, self.execution]).encode()

    @classmethod
    def decode(cls, line: bytes) -> "JobRequest":
        """Decode one that was encoded."""
        job_id, stored, queue, execution = json.loads(line)
        return cls(job_id, {name.encode(): value.encode("latin-1") for name, value in stored.items()}, queue, execution)
