"""Allow the jobs of our workers only: access to Redis is no way to run other code.

RQ calls whatever function a job in Redis names; with this list a stolen Redis can have deliveries processed at most.
"""

from collections.abc import Callable, Mapping
from typing import Any

from rq.job import Job
from rq.utils import import_attribute

from ingest.errors import WebhooksError
from ingest.queue.queues import BATCH_JOB, CLOCK_GONE_JOB, RUNS_JOB

ALLOWED_FUNCTIONS = frozenset({BATCH_JOB, RUNS_JOB, CLOCK_GONE_JOB})


class JobNotAllowed(WebhooksError):
    """Raised when a job names a function outside ALLOWED_FUNCTIONS."""


class AllowlistedJob(Job):
    """A job of one of the allowed functions, without callbacks; any other fails before anything is imported."""

    stored: Mapping[bytes, bytes] = {}
    """Its hash in Redis, as it was read."""

    def restore(self, raw_data: Mapping[bytes, bytes]) -> None:
        """Take over what Redis has, and remember it."""
        self.stored = raw_data
        super().restore(raw_data)

    @property
    def func(self) -> Callable[..., Any]:
        """The function. Raises JobNotAllowed if it is not allowed."""
        if self.func_name not in ALLOWED_FUNCTIONS or self.instance is not None:
            raise JobNotAllowed("The job names a function that is not allowed.")
        return import_attribute(self.func_name)

    @property
    def success_callback(self) -> None:
        """None: our jobs have no callbacks, so one in Redis is foreign."""

    failure_callback = stopped_callback = success_callback
