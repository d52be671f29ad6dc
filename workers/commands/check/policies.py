"""Finds out who is asked at the charger, whether Plugsurfing can ask, and how old is what policies know."""

from collections.abc import Iterator
from datetime import UTC, datetime

from sqlalchemy.exc import DBAPIError

from ingest.config.secrets import authorization_values
from ingest.config.settings import Settings
from workers.commands.check.basics import SHORT_KEY, CheckResult, CheckStatus
from workers.commands.output import human_duration
from workers.commands.stores import sqlite_file
from workers.ledger import sync_state
from workers.ledger.database.engine import create_ledger_engine, read_only
from workers.ledger.sync_state import SyncState
from workers.plugins import PluginError, load_plugins
from workers.policies.cache import KEYS


def check_policies(settings: Settings) -> Iterator[CheckResult]:
    """See whether `authorize` can answer, and with what."""
    try:
        policies = load_plugins(settings).policies
    except PluginError:  # told with the plugins
        return
    names = ", ".join(policy.name for policy in policies)
    if names:
        yield _finding(CheckStatus.OK, f"Asked in this order: {names}.")
    else:
        yield _finding(CheckStatus.OK, "None is asked: every key may charge.")
    values = authorization_values(settings.authorize_credentials)
    if not values:
        standing = CheckStatus.WARN if names else CheckStatus.OK
        yield _finding(standing, "AUTHORIZE_CREDENTIALS is not set: `webhooks authorize` does not start.")
    elif min(map(len, values)) < SHORT_KEY:
        yield _finding(
            CheckStatus.WARN, f"AUTHORIZE_CREDENTIALS has a value shorter than {SHORT_KEY} bytes: easy to guess."
        )
    yield from _facts(settings)


def _facts(settings: Settings) -> Iterator[CheckResult]:
    wants_balance = settings.authorize_least_balance is not None
    wants_keys = settings.authorize_key_list or (wants_balance and settings.authorize_holder == "contract")
    if (wants_keys or wants_balance) and not settings.has_drive:
        yield _finding(CheckStatus.WARN, "DRIVE_API_KEY is not set: what they want to know is never read.")
        return
    if wants_balance and settings.drive_balance_path is None:
        yield _finding(CheckStatus.WARN, "DRIVE_BALANCE_PATH is not set: no balance is ever read.")
    if wants_keys:
        yield _age(_last_reading(settings), settings)


def _last_reading(settings: Settings) -> SyncState | None:
    file = sqlite_file(settings)
    if file is not None and not file.exists():
        return None
    engine = create_ledger_engine(settings.database_url)
    try:
        with read_only(engine) as conn:
            return sync_state.get(conn, KEYS)
    except DBAPIError:  # told with the database
        return None
    finally:
        engine.dispose()


def _age(last: SyncState | None, settings: Settings) -> CheckResult:
    if last is None or last.read_at is None:
        why = f" ({last.reason})" if last is not None and last.reason else ""
        return _finding(CheckStatus.WARN, f"The list of keys has not been read yet{why}: `webhooks clock` reads it.")
    age = datetime.now(UTC) - last.read_at
    told = f"The list of {last.rows_read} keys was read {human_duration(age)} ago."
    if age > settings.authorize_keys_stale:
        return _finding(CheckStatus.WARN, f"{told} That is too long: it does not count any more.")
    if last.failed_at is not None:
        return _finding(CheckStatus.WARN, f"{told} Since then it could not be: {last.reason}")
    return _finding(CheckStatus.OK, told)


def _finding(standing: CheckStatus, sentence: str) -> CheckResult:
    return CheckResult("policies", standing, sentence)
