"""Where the inbox, the queues and the ledger are."""

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings

from ingest.config.types import DatabaseUrl, Folder, RedisUrl


class StoreSettings(BaseSettings):
    """Where things are kept."""

    data_dir: Folder = Field(Path("var"), description="folder of the inbox and the embedded stores")
    redis_url: RedisUrl | None = Field(
        None,
        repr=False,
        description="the queues: `redis://`, `rediss://`, `unix://`, `redis+sentinel://host:port,host:port/service/db`",
    )
    database_url: DatabaseUrl = Field(
        default_factory=lambda fields: f"sqlite:///{fields['data_dir']}/ledger.db",
        repr=False,
        description="the ledger: `sqlite:///` or `postgresql+psycopg://`",
    )
