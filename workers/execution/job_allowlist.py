"""The jobs that our workers do: whoever can write to Redis may ask for these, and for nothing else.

RQ imports and calls whatever a job in Redis names. Jobs are JSON, which executes nothing by itself; with these names
only, a stolen Redis can have deliveries processed, and no code run.
"""

from collections.abc import Callable
from typing import Any

from rq.job import Job
from rq.utils import import_attribute

from ingest.errors import WebhooksError
from ingest.queue.queues import BATCH_JOB, RUNS_JOB

ALLOWED_FUNCTIONS = frozenset({BATCH_JOB, RUNS_JOB})


class JobNotAllowed(WebhooksError):
    """Raised when a job asks for a function that is none of ours."""


class AllowlistedJob(Job):
    """A job that calls one of our functions, on nothing, with no callbacks; any other fails before it is imported."""

    @property
    def func(self) -> Callable[..., Any]:
        """The function. Raises NotOurJob if it is not one of ours."""
        if self.func_name not in ALLOWED_FUNCTIONS or self.instance is not None:
            raise JobNotAllowed("The job asks for a function that is not one of ours.")
        return import_attribute(self.func_name)

    @property
    def success_callback(self) -> None:
        """None: we name none, so one that is named is not ours."""

    @property
    def failure_callback(self) -> None:
        """None, likewise."""

    @property
    def stopped_callback(self) -> None:
        """None, likewise."""
