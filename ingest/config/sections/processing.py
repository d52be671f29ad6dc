"""Settings of the stores, of batches, and of handlers and their retries."""

from datetime import timedelta
from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings

from ingest.config.durations import Duration, PositiveDuration
from ingest.config.types import DatabaseUrl, DataFolder, Names, PositiveInt, QueueNamespace, RedisUrl, setting


def _in_url(folder: Path) -> str:
    """Return a folder as it is written in a URL of SQLAlchemy, where `?` begins a query and `%` an escape."""
    return str(folder).replace("%", "%25").replace("?", "%3F")


class StoreSettings(BaseSettings):
    """Every process: where the inbox, the queues and the ledger are."""

    data_dir: DataFolder = setting(Path("var"), "folder of the inbox and the embedded stores")
    redis_url: RedisUrl | None = Field(
        None,
        repr=False,
        description="the queues: `redis://`, `rediss://`, `unix://`, `redis+sentinel://host:port,host:port/service/db`",
    )
    queue_namespace: QueueNamespace | None = setting(
        None, "what the keys of this installation in Redis begin with, after `webhooks:`"
    )
    database_url: DatabaseUrl = Field(
        default_factory=lambda fields: f"sqlite:///{_in_url(fields['data_dir'])}/ledger.db",
        repr=False,
        description="the ledger: `sqlite:///` or `postgresql+psycopg://`",
    )


class ProcessingSettings(BaseSettings):
    """`serve`, `work` and `clock`: batches, handlers and retries."""

    batch_deliveries: PositiveInt = setting(2000, "most deliveries in one RQ job")
    batch_bytes: PositiveInt = setting(4_194_304, "most bytes of bodies in one RQ job, unless a single one is larger")
    hold_back: Duration = setting(timedelta(seconds=2), "how long deliveries wait for a busy queue")
    poison_deaths: PositiveInt = setting(3, "workers that a delivery alone may kill before it is a dead letter")
    handler_modules: Names = setting((), "further modules with handlers, by comma")
    handler_timeout: PositiveDuration = setting(timedelta(seconds=30), "how long a handler may take")
    handler_concurrency: PositiveInt = setting(20, "async handlers of one job at the same time")
    retry_attempts: PositiveInt = setting(12, "attempts at a run before it is a dead letter")
    retry_first: PositiveDuration = setting(timedelta(seconds=2), "wait before the second attempt; it doubles")
    retry_longest: PositiveDuration = setting(timedelta(hours=1), "longest wait between two attempts")
    finished_jobs_kept: PositiveDuration = setting(timedelta(minutes=10), "how long RQ shows finished jobs")
    failed_jobs_shown: PositiveInt = setting(100, "most failed jobs of a queue that RQ shows")
    failed_jobs_kept: PositiveDuration = setting(timedelta(days=7), "how long RQ shows failed jobs")
