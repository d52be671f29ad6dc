"""Opens the stores that a command reads, and creates none that is missing."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext

from sqlalchemy import Connection, Engine

from ingest.config.settings import Settings
from ingest.inbox.schema import FILE_NAME
from ingest.relay.outbox import Outbox
from workers.commands.errors import Failure
from workers.ledger.database.engine import create_ledger_engine, database_file, missing_text, read_only


@contextmanager
def open_ledger(settings: Settings) -> Iterator[Engine]:
    """Open the ledger; raise Failure if it is a file that does not exist."""
    path = database_file(settings.database_url)
    if path is not None and not path.exists():
        raise Failure(missing_text(path))
    engine = create_ledger_engine(settings.database_url)
    try:
        yield engine
    finally:
        engine.dispose()


@contextmanager
def read_only_ledger(settings: Settings) -> Iterator[Connection]:
    """Open a read-only transaction on the ledger."""
    with open_ledger(settings) as engine, read_only(engine) as conn:
        yield conn


def open_inbox(settings: Settings) -> AbstractContextManager[Outbox | None]:
    """Open this node's inbox beside the processes that use it; None if there is none yet."""
    path = settings.data_dir / FILE_NAME
    return closing(Outbox(path)) if path.exists() else nullcontext()
