"""Checks the policies at the charger: their order, their credentials, and the age of what they know."""

from collections.abc import Iterator
from datetime import UTC, datetime

from sqlalchemy.exc import DBAPIError

from ingest.config.secrets import authorization_values
from ingest.config.settings import Settings
from workers.commands.check.basics import SHORT_KEY
from workers.commands.check.check_result import CheckResult, ok, warn
from workers.commands.errors import Failure
from workers.commands.stores import read_only_ledger
from workers.ledger import sync_state
from workers.ledger.sync_state import SyncState
from workers.lists.formatting import human_duration
from workers.plugins import PluginError, load_plugins
from workers.policies.cache import KEYS


def check_policies(settings: Settings) -> Iterator[CheckResult]:
    """Check that `authorize` can answer, and by which policies."""
    try:
        policies = load_plugins(settings).policies
    except PluginError:  # the check of the plugins reports it
        return
    names = ", ".join(policy.name for policy in policies)
    if names:
        yield ok("policies", f"Asked in this order: {names}.")
    else:
        yield ok("policies", "None is asked: every key may charge.")
    values = authorization_values(settings.authorize_credentials)
    if not values:
        yield (warn if names else ok)(
            "policies", "AUTHORIZE_CREDENTIALS is not set: `webhooks authorize` does not start."
        )
    elif min(map(len, values)) < SHORT_KEY:
        yield warn("policies", f"AUTHORIZE_CREDENTIALS has a value shorter than {SHORT_KEY} bytes: easy to guess.")
    yield from _facts(settings)


def _facts(settings: Settings) -> Iterator[CheckResult]:
    wants_balance = settings.authorize_least_balance is not None
    wants_keys = settings.authorize_key_list or (wants_balance and settings.authorize_holder == "contract")
    if (wants_keys or wants_balance) and not settings.has_drive:
        yield warn("policies", "DRIVE_API_KEY is not set: the keys and balances they need are never read.")
        return
    if wants_balance and settings.drive_balance_path is None:
        yield warn("policies", "DRIVE_BALANCE_PATH is not set: no balance is ever read.")
    if wants_keys:
        yield _age(_last_read(settings), settings)


def _last_read(settings: Settings) -> SyncState | None:
    try:
        with read_only_ledger(settings) as conn:
            return sync_state.get(conn, KEYS)
    except (DBAPIError, Failure):  # the check of the database reports it
        return None


def _age(last: SyncState | None, settings: Settings) -> CheckResult:
    if last is None or last.read_at is None:
        why = f" ({last.reason})" if last is not None and last.reason else ""
        return warn("policies", f"The list of keys has not been read yet{why}: `webhooks clock` reads it.")
    age = datetime.now(UTC) - last.read_at
    read = f"The list of {last.rows_read} keys was read {human_duration(age)} ago."
    if age > settings.authorize_keys_stale:
        return warn("policies", f"{read} That is too long: policies do not use it any more.")
    if last.failed_at is not None:
        return warn("policies", f"{read} Reading it has failed since: {last.reason}")
    return ok("policies", read)
