"""What handlers read from the ledger, each time in a short transaction of its own."""

from dataclasses import dataclass
from typing import TypeVarTuple

from sqlalchemy import Engine, Row
from sqlalchemy.sql.selectable import TypedReturnsRows

from handlers.kit.session import Session
from workers.ledger import sessions
from workers.ledger.database.engine import read_only

Columns = TypeVarTuple("Columns")


@dataclass(frozen=True)
class LedgerReader:
    """Reads the ledger."""

    engine: Engine

    def session(self, session_id: str) -> Session | None:
        """Find the record of a session."""
        with read_only(self.engine) as ledger:
            return sessions.get(ledger, session_id)

    def read(self, statement: TypedReturnsRows[*Columns]) -> list[Row[*Columns]]:
        """Run a SELECT."""
        with read_only(self.engine) as ledger:
            return list(ledger.execute(statement))
