"""What policies are given: what they may ask for often from memory, the rest from the ledger."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import structlog
from structlog.typing import FilteringBoundLogger

from handlers.kit.policies import AuthorizeContext, BalanceSnapshot, ChargingKeySnapshot, Policy
from ingest.config.settings import Settings
from workers.ledger.database.engine import create_ledger_engine
from workers.ledger.reader import LedgerReader
from workers.policies.cache import PolicyCache

INITIAL_REFRESH_TIMEOUT = timedelta(seconds=2)
"""How long policies are not asked for want of facts; a ledger that takes longer is as good as away."""


@dataclass(frozen=True)
class PolicyContext(LedgerReader):
    """The context of one policy."""

    facts: PolicyCache
    settings: Settings
    log: FilteringBoundLogger

    def now(self) -> datetime:
        """Tell the time."""
        return datetime.now(UTC)

    def charging_key(self, identifier: str) -> ChargingKeySnapshot | None:
        """Find a charging key in memory."""
        return self.facts.charging_key(identifier)

    def keys_synced_at(self) -> datetime | None:
        """Say when the list of keys was read from the Drive API."""
        return self.facts.keys_synced_at()

    def balance(self, user_id: str) -> BalanceSnapshot | None:
        """Find a balance in memory."""
        return self.facts.balance(user_id)

    def open_sessions(self, key: str | None, user_id: str | None = None) -> Collection[str]:
        """Name open sessions from memory."""
        return self.facts.open_sessions(key, user_id)

    def sessions_read_at(self) -> datetime | None:
        """Say when the open sessions were looked through."""
        return self.facts.sessions_read_at()


def policy_context_factory(settings: Settings) -> Callable[[Policy], AuthorizeContext]:
    """Open the ledger for the policies of this process, and begin to copy what they know from it."""
    engine = create_ledger_engine(settings.database_url)
    facts = PolicyCache(engine, settings)
    facts.start(INITIAL_REFRESH_TIMEOUT)
    log = structlog.get_logger()
    return lambda policy: PolicyContext(engine, facts, settings, log.bind(policy=policy.name))
