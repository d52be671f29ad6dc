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
    """Everything that a job may touch."""

    settings: Settings
    plugins: Plugins
    engine: Engine
    connection: redis.Redis
    channels: Channels


def open_resources(connection: redis.Redis | None = None) -> Resources:
    """Gather what the current RQ job works with; a process outside of a job names its own connection to Redis."""
    settings, plugins = preload()
    if connection is None:
        job = get_current_job()
        if job is None:
            raise RuntimeError("outside of an RQ job, equip() needs a connection")
        connection = job.connection
    return Resources(settings, plugins, shared_engine(), connection, open_channels(settings, plugins.channels))


@functools.cache
def preload() -> tuple[Settings, Plugins]:
    """Read the settings and import the plugins: once, so that a worker that does it before it forks pays it once."""
    settings = load_settings()
    return settings, load_plugins(settings)


@functools.cache
def shared_engine() -> Engine:
    """Make the engine: once, so that what a worker's ledger has rehearsed before it forks is known after it."""
    settings, _ = preload()
    return create_ledger_engine(settings.database_url)
