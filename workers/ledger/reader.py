"""What handlers and policies read from the ledger, each time in a short transaction of its own."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVarTuple

import structlog
from sqlalchemy import Engine, Row
from sqlalchemy.sql.selectable import TypedReturnsRows

from handlers.kit.channel import Device
from handlers.kit.session import Session
from workers.ledger import sessions
from workers.ledger.database.engine import read_only
from workers.resilience.guarded_call import HandlerTimedOut, call_guarded

log = structlog.get_logger()

Columns = TypeVarTuple("Columns")


@dataclass(frozen=True)
class LedgerReader:
    """Reads the ledger."""

    engine: Engine

    def session(self, session_id: str) -> Session | None:
        """Return the record of a session."""
        with read_only(self.engine) as ledger:
            return sessions.get(ledger, session_id)

    def read(self, statement: TypedReturnsRows[*Columns]) -> list[Row[*Columns]]:
        """Run a SELECT."""
        with read_only(self.engine) as ledger:
            return list(ledger.execute(statement))


@dataclass(frozen=True)
class HandlerReader(LedgerReader):
    """The reader behind a handler's context: also looks up devices, which a plugin may do."""

    devices_of: Callable[[str], Sequence[Device]]

    def devices(self, user_id: str) -> Sequence[Device]:
        """List a user's devices; none if the lookup fails, for a push in a default language is better than none."""
        found, failure = call_guarded(self.devices_of, user_id)
        if isinstance(failure, HandlerTimedOut):
            raise failure
        if failure is not None:
            log.warning("devices.lookup_failed", reason=type(failure).__name__)
        return found or ()
