"""The clock's duties that read from the Drive API what policies want to know, so that no answer waits for it."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial

import structlog
from sqlalchemy import Connection

from handlers.kit.key_identifiers import candidate_spellings, normalize
from ingest.events import LONGEST_TEXT, LONGEST_USER_ID, sanitize_text
from workers.drive.client import DriveClient
from workers.drive.errors import DriveError, DriveUnavailable, NotFound
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
now = partial(datetime.now, UTC)

MARGIN = timedelta(seconds=30)
"""How much longer than one answer may take what is read is left to who reads it. If they die, others read it then."""
AGAIN_AFTER = timedelta(seconds=30)
"""When what could not be read is tried again."""
EARLIEST_AGAIN = timedelta(minutes=1)
"""How old the list of keys is at least when a question about an unknown key has it read before its time."""
RECENT_REQUESTS = 1000
AT_ONCE = 10


def sync_tasks(equipment: Resources) -> list[PeriodicTask]:
    """Make them: none without policies, or without a key of the Drive API."""
    settings = equipment.settings
    if not (settings.has_drive and equipment.plugins.policies):
        return []
    drive = DriveClient(settings, equipment.connection)
    duties: list[PeriodicTask] = [SyncChargingKeys(equipment, drive)]
    if settings.drive_balance_path is not None:
        duties.append(SyncBalances(equipment, drive))
    return duties


class LeaseLost(Exception):
    """Raised when another clock has taken on what was being read: its lease was over, or it had to be read at once."""


class SyncChargingKeys:
    """Reads the list of charging keys as a whole: of AUTHORIZE_FLEETS, or of the organization.

    It takes the place of the last one only when all of it was read; until then, and if that fails, the last one stands.
    """

    name = "keys"
    every = timedelta(seconds=5)

    def __init__(self, equipment: Resources, drive: DriveClient) -> None:
        self._engine = equipment.engine
        self._settings = equipment.settings
        self._drive = drive
        self._claimed_until = now()

    def run(self) -> None:
        """Read the list if it is due."""
        until = now() + self._settings.drive_patience + MARGIN
        if not run_in_transaction(self._engine, lambda ledger: self._claim(ledger, until)):
            return
        self._claimed_until = until
        try:
            listed = list(self._read())
            changed = run_in_transaction(self._engine, lambda ledger: self._keep(ledger, listed))
        except DriveError as failure:
            reason = str(failure)
            run_in_transaction(self._engine, lambda ledger: self._fail(ledger, reason))
            raise
        except LeaseLost:
            log.info("keys.left_to_another")
            return
        log.info("keys.read", keys=len(listed), changed=changed)

    def _claim(self, ledger: Connection, until: datetime) -> bool:
        at = now()
        last = sync_state.get(ledger, KEYS)
        if last is not None and self._is_too_old(ledger, last, at):
            sync_state.expedite(ledger, KEYS, at, instead_of=last.due_at)
        return sync_state.claim(ledger, KEYS, at, until - at)

    def _is_too_old(self, ledger: Connection, last: SyncState, at: datetime) -> bool:
        if last.read_at is None or last.failed_at is not None or at - last.read_at < EARLIEST_AGAIN:
            return False
        if last.due_at != last.read_at + self._settings.authorize_keys_every:  # somebody is reading it just now
            return False
        return self._has_unknown(ledger, authorizations.keys_asked_for(ledger, last.read_at, RECENT_REQUESTS))

    def _has_unknown(self, ledger: Connection, asked: Iterable[str]) -> bool:
        """Say whether one of the keys is not listed: Plugsurfing asks about keys that it knows, so the list is old."""
        by_key = {key: candidate_spellings(key, self._settings.authorize_key_bytes) for key in asked}
        known = charging_keys.existing(ledger, {spelt for several in by_key.values() for spelt in several})
        return any(known.isdisjoint(several) for several in by_key.values())

    def _read(self) -> Iterator[KeyRow]:
        for fleet_id in self._settings.authorize_fleets or (None,):
            self._renew_lease()
            for key in self._drive.charging_keys(fleet_id):
                yield row_of(key, fleet_id)
                self._renew_lease()

    def _renew_lease(self) -> None:
        """Renew the lease unless there is time for another answer."""
        at, answer_takes = now(), self._settings.drive_patience
        if self._claimed_until - at > answer_takes:
            return
        before, until = self._claimed_until, at + answer_takes + MARGIN
        if not run_in_transaction(self._engine, lambda ledger: sync_state.renew(ledger, KEYS, before, until)):
            raise LeaseLost
        self._claimed_until = until

    def _keep(self, ledger: Connection, listed: list[KeyRow]) -> int:
        at, settings = now(), self._settings
        if not sync_state.renew(ledger, KEYS, self._claimed_until, at):  # a newer list may stand already
            raise LeaseLost
        generation = sync_state.begin_generation(ledger, KEYS)
        changed = charging_keys.replace_all(ledger, listed, generation, at)
        sync_state.mark_complete(ledger, KEYS, at, at + settings.authorize_keys_every, len(listed))
        if settings.authorize_least_balance is not None and settings.authorize_holder == "contract":
            balances.schedule_contracts(ledger, at)
        return changed

    def _fail(self, ledger: Connection, reason: str) -> None:
        at = now()
        if sync_state.renew(ledger, KEYS, self._claimed_until, at):  # else another clock reads it: it shall go on
            sync_state.failed(ledger, KEYS, at, at + AGAIN_AFTER, reason)


class SyncBalances:
    """Reads the balances that are due, those that a driver waits for first, AUTHORIZE_BALANCES_A_MINUTE at most."""

    name = "balances"
    every = timedelta(seconds=1)

    def __init__(self, equipment: Resources, drive: DriveClient) -> None:
        self._engine = equipment.engine
        self._settings = equipment.settings
        self._drive = drive
        self._allowance = TokenBucket(equipment.settings.authorize_balances_a_minute)

    def run(self) -> None:
        """Read some, several at the same time. Raises what is wrong with the Drive API, once what was read is kept."""
        limit = min(self._allowance.available(), AT_ONCE)
        if limit == 0 or not self._is_any_due():
            return
        lease = self._settings.drive_patience + MARGIN
        users = run_in_transaction(self._engine, lambda ledger: balances.claim(ledger, now(), lease, limit=limit))
        if not users:
            return
        self._allowance.consume(len(users))
        with ThreadPoolExecutor(len(users)) as pool:
            answers = dict(zip(users, pool.map(self._read, users), strict=True))
        read = [answer for answer in answers.values() if isinstance(answer, Balance)]
        failed = {user_id: answer for user_id, answer in answers.items() if isinstance(answer, DriveError)}
        run_in_transaction(self._engine, lambda ledger: self._keep(ledger, read, failed))
        if failed:
            raise next(iter(failed.values()))

    def _is_any_due(self) -> bool:
        # On SQLite a look, unlike a claim, keeps nobody from writing.
        return read_once(self._engine, lambda ledger: balances.is_any_due(ledger, now()))

    def _read(self, user_id: str) -> Balance | DriveError:
        try:
            return Balance(user_id, self._drive.balance(user_id), now())
        except NotFound:
            return Balance(user_id, None, now())
        except DriveError as failure:
            return failure

    def _keep(self, ledger: Connection, read: list[Balance], failed: dict[str, DriveError]) -> None:
        every = self._settings.authorize_balances_every
        balances.put(ledger, read, every=every, otherwise=max(every, self._settings.authorize_balances_stale / 2))
        for user_id, failure in sorted(failed.items()):
            after = AGAIN_AFTER if isinstance(failure, DriveUnavailable) else every
            balances.failed(ledger, [user_id], now(), now() + after, str(failure))


def row_of(key: ChargingKey, fleet_id: str | None) -> KeyRow:
    """Write a key as the ledger keeps it; a fleet's list need not say which fleet it is."""
    contract = None if key.contract_id is None else sanitize_text(key.contract_id)
    return KeyRow(
        identifier=sanitize_text(normalize(key.identifier))[:LONGEST_TEXT],
        enabled=key.enabled,
        valid_to=key.valid_to,
        contract_id=contract if contract and len(contract) <= LONGEST_USER_ID else None,
        visual_number=None if key.visual_number is None else sanitize_text(key.visual_number),
        fleet_id=sanitize_text(key.fleet_id or fleet_id or "") or None,
    )
