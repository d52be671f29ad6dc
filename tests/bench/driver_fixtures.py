"""Drivers as the ledger knows them, for load on authorization: their charging keys and balances."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

from tests.bench.authorize_load import key_of
from workers.ledger import balances, charging_keys, sync_state
from workers.ledger.balances import Balance
from workers.ledger.charging_keys import KeyRow
from workers.ledger.database.engine import create_ledger_engine
from workers.ledger.database.migrate import migrate
from workers.policies.cache import KEYS

LISTED = 1000
YEAR = timedelta(days=365)


def insert_drivers(database_url: str) -> None:
    """Make the tables and insert LISTED drivers as if the Drive API had just listed them."""
    migrate(database_url)
    now = datetime.now(UTC)
    keys = [KeyRow(key_of(number), enabled=True, contract_id=f"driver-{number}") for number in range(LISTED)]
    read = [Balance(f"driver-{number}", Decimal(20), now) for number in range(LISTED)]
    engine = create_ledger_engine(database_url)
    try:
        with engine.begin() as ledger:
            sync_state.claim(ledger, KEYS, now, YEAR)
            charging_keys.replace_all(ledger, keys, sync_state.begin_generation(ledger, KEYS), now)
            sync_state.mark_complete(ledger, KEYS, now, now + YEAR, LISTED)
            balances.schedule_contracts(ledger, now)
            balances.mark_read(ledger, read, every=YEAR, otherwise=YEAR)
    finally:
        engine.dispose()
