"""What policies read: the ledger, each time in a short transaction of its own."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import UTC, datetime

import structlog
from structlog.typing import FilteringBoundLogger

from handlers.kit.authorize import AuthorizeContext, BalanceFacts, ChargingKeyFacts, Policy
from ingest.settings import Settings
from workers.ledger.engine import open_ledger
from workers.ledger.reader import LedgerReader


@dataclass(frozen=True)
class LedgerContext(LedgerReader):
    """The context of one policy."""

    settings: Settings
    log: FilteringBoundLogger

    def now(self) -> datetime:
        """Tell the time."""
        return datetime.now(UTC)

    def charging_key(self, identifier: str) -> ChargingKeyFacts | None:  # noqa: ARG002 - none are read yet
        """Find none."""
        return None

    def keys_read_at(self) -> datetime | None:
        """Say that they never were."""
        return None

    def balance(self, user_id: str) -> BalanceFacts | None:  # noqa: ARG002 - none are read yet
        """Find none."""
        return None

    def open_sessions(self, key: str | None, user_id: str | None = None) -> Collection[str]:  # noqa: ARG002 - see above
        """Name none."""
        return ()

    def sessions_read_at(self) -> datetime | None:
        """Say that they never were."""
        return None


def open_contexts(settings: Settings) -> Callable[[Policy], AuthorizeContext]:
    """Open the ledger for the policies of this process; no connection is made before the first read."""
    engine = open_ledger(settings.database_url)
    log = structlog.get_logger()
    return lambda policy: LedgerContext(engine, settings, log.bind(policy=policy.name))
