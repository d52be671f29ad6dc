"""Periodic tasks that copy charging keys and balances from the Drive API, so that no decision waits for it."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta

import structlog
from sqlalchemy import Connection

from handlers.kit.key_identifiers import candidate_spellings, normalize
from ingest.events import LONGEST_TEXT, LONGEST_USER_ID, sanitize_text
from ingest.wire.timestamps import utc_now
from workers.drive.client import DriveClient
from workers.drive.drive_errors import DriveError, DriveUnavailable, NotFound
from workers.drive.models import ChargingKey
from workers.ledger import authorizations, balances, charging_keys, sync_state
from workers.ledger.balances import Balance
from workers.ledger.charging_keys import KeyRow
from workers.ledger.database.transaction import read_once, run_in_transaction
from workers.ledger.sync_state import SyncState
from workers.policies.cache import KEYS
from workers.resilience.periodic import PeriodicTask
from workers.resilience.token_bucket import TokenBucket
from workers.resources import Resources

log = structlog.get_logger()

MARGIN = timedelta(seconds=30)
"""How much longer a lease is than one response may take. After it, another clock takes over from one that died."""
RETRY_AFTER = timedelta(seconds=30)
"""When a failed read is tried again."""
MIN_AGE = timedelta(minutes=1)
"""How old the list of keys must be before a request with an unknown key makes it due early."""
RECENT_REQUESTS = 1000
MAX_CONCURRENT = 10


def sync_tasks(resources: Resources) -> list[PeriodicTask]:
    """Return the tasks: none without policies, or without a key of the Drive API."""
    settings = resources.settings
    if not (settings.has_drive and resources.plugins.policies):
        return []
    drive = DriveClient(settings, resources.connection)
    tasks: list[PeriodicTask] = [SyncChargingKeys(resources, drive)]
    if settings.drive_balance_path is not None:
        tasks.append(SyncBalances(resources, drive))
    return tasks


class LeaseLost(Exception):
    """Raised when another clock has taken over: the lease had expired, or the read was made due at once."""


class SyncChargingKeys:
    """Reads the whole list of charging keys: of AUTHORIZE_FLEETS, or of the organization.

    It replaces the last list in one transaction, when all of it was read; if that fails, the last list stays.
    """

    name = "keys"
    every = timedelta(seconds=5)

    def __init__(self, resources: Resources, drive: DriveClient) -> None:
        self._engine = resources.engine
        self._settings = resources.settings
        self._drive = drive
        self._claimed_until = utc_now()

    def run(self) -> None:
        """Read the list if it is due. Raise DriveError, once the failure is recorded."""
        until = utc_now() + self._settings.drive_patience + MARGIN
        if not run_in_transaction(self._engine, lambda ledger: self._claim(ledger, until)):
            return
        self._claimed_until = until
        try:
            listed = list(self._read())
            changed = run_in_transaction(self._engine, lambda ledger: self._replace(ledger, listed))
        except DriveError as failure:
            reason = str(failure)
            run_in_transaction(self._engine, lambda ledger: self._record_failure(ledger, reason))
            raise
        except LeaseLost:
            log.info("keys.lease_lost")
            return
        log.info("keys.synced", keys=len(listed), changed=changed)

    def _claim(self, ledger: Connection, until: datetime) -> bool:
        at = utc_now()
        last = sync_state.get(ledger, KEYS)
        if last is not None and self._is_outdated(ledger, last, at):
            sync_state.expedite(ledger, KEYS, at, instead_of=last.due_at)
        return sync_state.claim(ledger, KEYS, at, until - at)

    def _is_outdated(self, ledger: Connection, last: SyncState, at: datetime) -> bool:
        if last.read_at is None or last.failed_at is not None or at - last.read_at < MIN_AGE:
            return False
        if last.due_at != last.read_at + self._settings.authorize_keys_every:  # it is being read
            return False
        return self._has_unknown(ledger, authorizations.keys_asked_for(ledger, last.read_at, RECENT_REQUESTS))

    def _has_unknown(self, ledger: Connection, requested: Iterable[str]) -> bool:
        """Return whether a key is not listed: Plugsurfing sends keys that it knows, so the list is outdated."""
        spellings = [candidate_spellings(key, self._settings.authorize_key_bytes) for key in requested]
        known = charging_keys.existing(ledger, {each for candidates in spellings for each in candidates})
        return any(known.isdisjoint(candidates) for candidates in spellings)

    def _read(self) -> Iterator[KeyRow]:
        for fleet_id in self._settings.authorize_fleets or (None,):
            self._renew_lease()
            for key in self._drive.charging_keys(fleet_id):
                yield row_of(key, fleet_id)
                self._renew_lease()

    def _renew_lease(self) -> None:
        """Renew the lease unless there is time for another response. Raise LeaseLost."""
        at, response_takes = utc_now(), self._settings.drive_patience
        if self._claimed_until - at > response_takes:
            return
        before, until = self._claimed_until, at + response_takes + MARGIN
        if not run_in_transaction(self._engine, lambda ledger: sync_state.renew(ledger, KEYS, before, until)):
            raise LeaseLost
        self._claimed_until = until

    def _replace(self, ledger: Connection, listed: list[KeyRow]) -> int:
        at, settings = utc_now(), self._settings
        if not sync_state.renew(ledger, KEYS, self._claimed_until, at):  # there may be a newer list already
            raise LeaseLost
        generation = sync_state.begin_generation(ledger, KEYS)
        changed = charging_keys.replace_all(ledger, listed, generation, at)
        sync_state.mark_complete(ledger, KEYS, at, at + settings.authorize_keys_every, len(listed))
        if settings.authorize_least_balance is not None and settings.authorize_holder == "contract":
            balances.schedule_contracts(ledger, at)
        return changed

    def _record_failure(self, ledger: Connection, reason: str) -> None:
        at = utc_now()
        if sync_state.renew(ledger, KEYS, self._claimed_until, at):  # otherwise another clock reads it
            sync_state.mark_failed(ledger, KEYS, at, at + RETRY_AFTER, reason)


class SyncBalances:
    """Reads the balances that are due, requested ones first, at most AUTHORIZE_BALANCES_A_MINUTE."""

    name = "balances"
    every = timedelta(seconds=1)

    def __init__(self, resources: Resources, drive: DriveClient) -> None:
        self._engine = resources.engine
        self._settings = resources.settings
        self._drive = drive
        self._allowance = TokenBucket(resources.settings.authorize_balances_a_minute)

    def run(self) -> None:
        """Read some concurrently. Raise DriveError if one failed, once the others are stored."""
        limit = min(self._allowance.available(), MAX_CONCURRENT)
        # On SQLite a read, unlike a claim, does not block writers.
        if limit == 0 or not read_once(self._engine, lambda ledger: balances.is_any_due(ledger, utc_now())):
            return
        lease = self._settings.drive_patience + MARGIN
        users = run_in_transaction(self._engine, lambda ledger: balances.claim(ledger, utc_now(), lease, limit=limit))
        if not users:
            return
        self._allowance.consume(len(users))
        with ThreadPoolExecutor(len(users)) as pool:
            results = dict(zip(users, pool.map(self._read, users), strict=True))
        read = [result for result in results.values() if isinstance(result, Balance)]
        failed = {user_id: result for user_id, result in results.items() if isinstance(result, DriveError)}
        run_in_transaction(self._engine, lambda ledger: self._store(ledger, read, failed))
        if failed:
            raise next(iter(failed.values()))

    def _read(self, user_id: str) -> Balance | DriveError:
        try:
            return Balance(user_id, self._drive.balance(user_id), utc_now())
        except NotFound:
            return Balance(user_id, None, utc_now())
        except DriveError as failure:
            return failure

    def _store(self, ledger: Connection, read: list[Balance], failed: dict[str, DriveError]) -> None:
        every = self._settings.authorize_balances_every
        balances.mark_read(ledger, read, every=every, otherwise=max(every, self._settings.authorize_balances_stale / 2))
        for user_id, failure in sorted(failed.items()):
            after = RETRY_AFTER if isinstance(failure, DriveUnavailable) else every
            balances.mark_failed(ledger, [user_id], utc_now(), utc_now() + after, str(failure))


def row_of(key: ChargingKey, fleet_id: str | None) -> KeyRow:
    """Return the row of a key; `fleet_id` is the fleet whose list it is from, because a key need not have one."""
    contract = None if key.contract_id is None else sanitize_text(key.contract_id)
    return KeyRow(
        identifier=sanitize_text(normalize(key.identifier))[:LONGEST_TEXT],
        enabled=key.enabled,
        valid_to=key.valid_to,
        contract_id=contract if contract and len(contract) <= LONGEST_USER_ID else None,
        visual_number=None if key.visual_number is None else sanitize_text(key.visual_number),
        fleet_id=sanitize_text(key.fleet_id or fleet_id or "") or None,
    )
