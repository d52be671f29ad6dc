"""In-memory copy of what policies need from the ledger, refreshed by a thread.

Policies wait for nothing, and keep what was known while the ledger, or the Drive API behind it, is unavailable.
"""

import threading
import time
from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import asdict
from datetime import UTC, datetime, timedelta

import structlog
from sqlalchemy import Connection, Engine

from handlers.kit.key_identifiers import candidate_spellings
from handlers.kit.policies import BalanceSnapshot, ChargingKeySnapshot
from ingest.config.settings import Settings
from workers.ledger import balances, charging_keys, sync_state
from workers.ledger.database.engine import chunks
from workers.ledger.database.transaction import LedgerUnavailable, read_once, run_in_transaction
from workers.resilience.periodic import describe_error

log = structlog.get_logger()

KEYS = "charging_keys"
"""The name of the list of keys in `drive_readings`."""
REFRESH_EVERY = timedelta(seconds=2)
PAUSE_FACTOR = 10
"""The pause is at least so many times as long as the refresh took: at most a tenth of a core goes into copying."""
PAGE_SIZE = 1000
LATE_COMMIT = timedelta(minutes=1)
"""How long after a balance was read its transaction may still commit."""
LOOKUP_EVERY = timedelta(minutes=1)
"""How often the key of an open session without one is looked up again."""
WRITE_TIMEOUT = 2.0

EMPTY: Mapping[str, frozenset[str]] = {}


class PolicyCache:
    """A copy of charging keys, balances and charging sessions. Any thread may read it, without waiting."""

    def __init__(self, engine: Engine, settings: Settings) -> None:
        self._engine = engine
        self._settings = settings
        self._keys: dict[str, charging_keys.KeyRow] = {}
        self._by_number: Mapping[str, charging_keys.KeyRow] = {}
        self._generation = 0
        self._keys_synced_at: datetime | None = None
        self._balances: dict[str, BalanceSnapshot] = {}
        self._balances_since = datetime.now(UTC) - settings.authorize_balances_stale
        self._requested_balances: set[str] = set()
        self._open_sessions = EMPTY
        self._sessions_read_at: datetime | None = None
        self._keys_of: dict[str, Collection[str]] = {}
        self._looked_up: dict[str, float] = {}
        self._wants_sessions = settings.authorize_one_session
        self._is_stale = False
        self._stop = threading.Event()
        self._first_refresh = threading.Event()
        self._thread = threading.Thread(target=self._run, name="policy-cache", daemon=True)

    def start(self, timeout: timedelta) -> None:
        """Start to refresh, and wait for the end of the first attempt, at most so long."""
        self._thread.start()
        self._first_refresh.wait(timeout.total_seconds())

    def stop(self) -> None:
        """Stop the thread and wait for it."""
        self._stop.set()
        self._thread.join()

    def charging_key(self, identifier: str) -> ChargingKeySnapshot | None:
        """Return a key by its identifier in any spelling."""
        for spelling in candidate_spellings(identifier, self._settings.authorize_key_bytes):
            row = self._keys.get(spelling)
            if row is not None:
                return self._snapshot(row)
        return None

    def charging_key_by_number(self, visual_number: str) -> ChargingKeySnapshot | None:
        """Return a key by the number on its card."""
        row = self._by_number.get(visual_number)
        return None if row is None else self._snapshot(row)

    def keys_synced_at(self) -> datetime | None:
        """Return when the list of keys was read from the Drive API."""
        return self._keys_synced_at

    def balance(self, user_id: str) -> BalanceSnapshot | None:
        """Return a balance, and request it: the clock reads it again when it is old."""
        self._requested_balances.add(user_id)
        return self._balances.get(user_id)

    def open_sessions(self, key: str | None, user_id: str | None = None) -> Collection[str]:
        """Return the ids of the charging sessions of a key and of a user. The first call starts to copy them."""
        self._wants_sessions = True
        by_name = self._open_sessions
        names = [f"key:{each}" for each in candidate_spellings(key, self._settings.authorize_key_bytes)] if key else []
        names += [f"user:{user_id}"] if user_id else []
        return {session_id for name in names for session_id in by_name.get(name, ())}

    def sessions_read_at(self) -> datetime | None:
        """Return when the open sessions were read from the ledger."""
        return self._sessions_read_at

    def refresh(self) -> None:
        """Bring the copy up to date. Raise LedgerUnavailable."""
        now = datetime.now(UTC)

        def copy(conn: Connection) -> None:
            self._refresh_keys(conn)
            self._refresh_balances(conn, now)
            if self._wants_sessions:
                self._refresh_sessions(conn, now)

        read_once(self._engine, copy)
        self._record_demand(now)

    def _run(self) -> None:
        while not self._stop.is_set():
            started_at = time.monotonic()
            try:
                self.refresh()
            except Exception as failure:  # noqa: BLE001  without the thread the copy would age, and nobody would know
                if not self._is_stale:
                    log.warning("policy_cache.stale", reason=describe_error(failure))
                self._is_stale = True
            else:
                if self._is_stale:
                    log.info("policy_cache.recovered")
                self._is_stale = False
            self._first_refresh.set()
            self._stop.wait(max(REFRESH_EVERY.total_seconds(), PAUSE_FACTOR * (time.monotonic() - started_at)))

    def _snapshot(self, row: charging_keys.KeyRow) -> ChargingKeySnapshot:
        return ChargingKeySnapshot(**asdict(row), read_at=self._keys_synced_at)

    def _refresh_keys(self, conn: Connection) -> None:
        state = sync_state.get(conn, KEYS)
        if state is None or state.read_at is None:
            return
        if state.generation != self._generation:
            after = ""
            while page := charging_keys.changed(conn, self._generation, after, PAGE_SIZE):
                for row, is_listed in page:
                    if is_listed:
                        self._keys[row.identifier] = row
                    else:
                        self._keys.pop(row.identifier, None)
                after = page[-1][0].identifier
                time.sleep(0)  # lets the threads of policies run
            # An enabled one last, so that it is found where several have one number.
            in_order = sorted(self._keys.values(), key=lambda row: (row.enabled, row.identifier))
            self._by_number = {row.visual_number: row for row in in_order if row.visual_number is not None}
            self._generation = state.generation
        self._keys_synced_at = state.read_at

    def _refresh_balances(self, conn: Connection, now: datetime) -> None:
        for balance in balances.read_since(conn, self._balances_since - LATE_COMMIT):
            if balance.amount is None:
                self._balances.pop(balance.user_id, None)
            else:
                self._balances[balance.user_id] = BalanceSnapshot(balance.amount, balance.read_at)
        self._balances_since = now

    def _refresh_sessions(self, conn: Connection, now: datetime) -> None:
        by_name: defaultdict[str, set[str]] = defaultdict(set)
        session_ids = set()
        for session_id, user_id in charging_keys.charging_sessions(
            conn, now - self._settings.authorize_session_longest
        ):
            session_ids.add(session_id)
            if user_id is not None:
                by_name[f"user:{user_id}"].add(session_id)
        self._refresh_session_keys(conn, session_ids)
        for session_id, keys in self._keys_of.items():
            for key in keys:
                by_name[f"key:{key}"].add(session_id)
        self._open_sessions = {name: frozenset(ids) for name, ids in by_name.items()}
        self._sessions_read_at = now

    def _refresh_session_keys(self, conn: Connection, session_ids: Collection[str]) -> None:
        """Look up the keys of open sessions that have none yet, each at most every LOOKUP_EVERY."""
        self._keys_of = {each: keys for each, keys in self._keys_of.items() if each in session_ids}
        self._looked_up = {each: at for each, at in self._looked_up.items() if each in session_ids}
        now, every = time.monotonic(), LOOKUP_EVERY.total_seconds()
        unknown = [
            each
            for each in session_ids
            if each not in self._keys_of and now - self._looked_up.get(each, -every) >= every
        ]
        for page in chunks(unknown, PAGE_SIZE):
            for session_id, key in charging_keys.keys_of_sessions(conn, page):
                self._keys_of[session_id] = {*self._keys_of.get(session_id, ()), key}
            self._looked_up |= dict.fromkeys(page, now)
            time.sleep(0)

    def _record_demand(self, now: datetime) -> None:
        requested, self._requested_balances = self._requested_balances, set()
        if not requested:
            return
        every = self._settings.authorize_balances_every
        try:
            run_in_transaction(
                self._engine,
                lambda ledger: balances.request(ledger, requested, now, older_than=every),
                retry_for=WRITE_TIMEOUT,
            )
        except LedgerUnavailable:
            self._requested_balances |= requested
            raise
