"""Opens for one request what its page is read from."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from typing import Any

from sqlalchemy import Engine
from starlette.requests import Request

from ingest.config.settings import Settings
from ingest.inbox.schema import FILE_NAME
from ingest.relay.outbox import Outbox
from workers.ledger.database.engine import read_only
from workers.lists.list_query import Stores


class Opener:
    """Opens the stores, which may come and go while the console runs."""

    def __init__(self, settings: Settings, engine: Engine) -> None:
        self.settings = settings
        self.engine = engine

    @contextmanager
    def open(self, *, reads_ledger: bool = True) -> Iterator[Stores]:
        """Open a transaction for reading, unless the ledger is not read, and the inbox of this node if there is one."""
        path = self.settings.data_dir / FILE_NAME
        inbox = closing(Outbox(path)) if path.exists() else nullcontext()
        transaction: AbstractContextManager[Any] = read_only(self.engine) if reads_ledger else nullcontext()
        with inbox as outbox, transaction as ledger:
            yield Stores(self.settings, ledger, outbox)


def opener_of(request: Request) -> Opener:
    """Return the opener of the application that handles the request."""
    opener: Opener = request.app.state.stores
    return opener
