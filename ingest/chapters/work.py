"""How deliveries become batches, and how handlers are run and tried again."""

from datetime import timedelta

from pydantic import Field
from pydantic_settings import BaseSettings

from ingest.spans import Span, SpanOrZero
from ingest.spellings import Count, Names


class WorkSettings(BaseSettings):
    """How handlers are run."""

    batch_deliveries: Count = Field(500, description="most deliveries in one RQ job")
    batch_bytes: Count = Field(4_194_304, description="most bytes of bodies in one RQ job, unless one alone has more")
    hold_back: SpanOrZero = Field(timedelta(seconds=2), description="how long deliveries wait for a busy queue")
    poison_deaths: Count = Field(3, description="workers that a delivery alone may kill before it is a dead letter")
    handler_modules: Names = Field((), description="further modules with handlers, by comma")
    handler_timeout: Span = Field(timedelta(seconds=30), description="how long a handler may take")
    handler_concurrency: Count = Field(20, description="async handlers of one job at the same time")
    retry_attempts: Count = Field(12, description="attempts at a run before it is a dead letter")
    retry_first: Span = Field(timedelta(seconds=2), description="wait before the second attempt; it doubles")
    retry_longest: Span = Field(timedelta(hours=1), description="longest wait between two attempts")
    finished_jobs_kept: Span = Field(timedelta(minutes=10), description="how long RQ shows finished jobs")
    failed_jobs_kept: Span = Field(timedelta(days=7), description="how long RQ shows failed jobs")
