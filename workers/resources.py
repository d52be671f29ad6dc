"""What a job works with: settings and plugins, loaded once before the fork; database and Redis, opened after it."""

import functools
from dataclasses import dataclass

import redis
from rq import get_current_job
from sqlalchemy import Engine

from ingest.config.settings import Settings, load_settings
from workers.ledger.database.engine import create_ledger_engine
from workers.plugins import Plugins, load_plugins
from workers.push.registry import Channels, open_channels


@dataclass(frozen=True)
class Resources:
    """The settings, plugins and connections of a job or process."""

    settings: Settings
    plugins: Plugins
    engine: Engine
    connection: redis.Redis
    channels: Channels


def open_resources(connection: redis.Redis | None = None) -> Resources:
    """Open the resources of the current RQ job; outside of a job, pass the connection to Redis."""
    settings, plugins = preload()
    if connection is None:
        job = get_current_job()
        if job is None:
            raise RuntimeError("outside of an RQ job, open_resources() needs a connection")
        connection = job.connection
    return Resources(settings, plugins, shared_engine(), connection, open_channels(settings, plugins.channels))


@functools.cache
def preload() -> tuple[Settings, Plugins]:
    """Load the settings and import the plugins, once: a worker does it before it forks."""
    settings = load_settings()
    return settings, load_plugins(settings)


@functools.cache
def shared_engine() -> Engine:
    """Create the engine, once: statements compiled before the fork are cached after it."""
    settings, _ = preload()
    return create_ledger_engine(settings.database_url)
