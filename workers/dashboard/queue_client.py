"""The client for Redis of this process, which rq-dashboard and the metrics share."""

from functools import cache

from ingest.config.settings import load_settings
from ingest.queue.namespace import NamespacedRedis
from ingest.queue.redis_client import connect_queues
from workers.installation import queue_namespace
from workers.ledger.database.engine import create_ledger_engine


@cache
def client_of(url: str) -> NamespacedRedis:
    """Return the one client of this process for a URL: rq-dashboard would make one a request, without a timeout.

    Raise SQLAlchemy's errors while only the ledger knows the namespace and is unavailable.
    """
    settings = load_settings()
    engine = create_ledger_engine(settings.database_url)
    try:
        return connect_queues(url, queue_namespace(settings, engine))
    finally:
        engine.dispose()
