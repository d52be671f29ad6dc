"""One transaction against the ledger, begun anew while the database is away."""

from collections.abc import Callable
from typing import TypeVar

import stamina
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import InterfaceError, InternalError, OperationalError, ProgrammingError

from ingest.errors import WebhooksError

T = TypeVar("T")

OUT_OF_ORDER = (OperationalError, InterfaceError, InternalError)
"""What a database raises that is away, locked, read-only or torn between transactions: not the caller's fault."""

UNUSABLE = (*OUT_OF_ORDER, ProgrammingError)
"""That, and what it raises when it does not have this version's tables."""

PATIENCE = 30.0
"""How long, in seconds, a job waits for the database before it hands its work back."""


class LedgerUnavailable(WebhooksError):
    """Raised when the database stays away for longer than a job can wait."""


def transact(engine: Engine, work: Callable[[Connection], T], *, patience: float = PATIENCE) -> T:
    """Call `work` in a transaction and commit; again, with backoff, for as long as the database is out of order.

    `work` must bear being called more than once: a commit whose answer was lost may have happened.
    Raises LedgerUnavailable when the database stays away.
    """
    try:
        for attempt in stamina.retry_context(
            on=UNUSABLE, attempts=None, timeout=patience, wait_initial=0.05, wait_max=2
        ):
            with attempt, engine.begin() as connection:
                return work(connection)
    except UNUSABLE as failure:
        # The driver's text may quote the statement's values, so it is not repeated.
        raise LedgerUnavailable(f"the database cannot be used: {type(failure.orig).__name__}") from None
    raise AssertionError("stamina returns or raises")
