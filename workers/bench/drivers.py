"""The drivers who are asked about at the charger, as the ledger knows them: their keys, and what they have left."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

from workers.bench.questions import key_of
from workers.ledger import balances, charging_keys, drive_readings
from workers.ledger.balances import Balance
from workers.ledger.charging_keys import KeyRow
from workers.ledger.engine import open_ledger
from workers.ledger.facts import KEYS
from workers.ledger.migrate import migrate

LISTED = 1000
YEAR = timedelta(days=365)


def put_drivers(database_url: str) -> None:
    """Make the tables, and write LISTED drivers as if the Drive API had just named them."""
    migrate(database_url)
    now = datetime.now(UTC)
    keys = [KeyRow(key_of(number), enabled=True, contract_id=f"driver-{number}") for number in range(LISTED)]
    read = [Balance(f"driver-{number}", Decimal(20), now) for number in range(LISTED)]
    engine = open_ledger(database_url)
    try:
        with engine.begin() as ledger:
            drive_readings.claim(ledger, KEYS, now, YEAR)
            charging_keys.replace_all(ledger, keys, drive_readings.begin_generation(ledger, KEYS), now)
            drive_readings.complete(ledger, KEYS, now, now + YEAR, LISTED)
            balances.expect_contracts(ledger, now)
            balances.put(ledger, read, every=YEAR, otherwise=YEAR)
    finally:
        engine.dispose()
