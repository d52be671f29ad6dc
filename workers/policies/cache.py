"""What policies know, in memory: a copy of some of the ledger, which a thread of its own brings up to date.

So a policy waits for nothing, and knows what it knew while the ledger, or the Drive API behind it, is away.
"""

import threading
import time
from collections import defaultdict
from collections.abc import Collection, Mapping
from datetime import UTC, datetime, timedelta

import structlog
from sqlalchemy import Connection, Engine

from handlers.kit.key_identifiers import candidate_spellings
from handlers.kit.policies import BalanceSnapshot, ChargingKeySnapshot
from ingest.config.settings import Settings
from workers.ledger import balances, charging_keys, session_keys, sync_state
from workers.ledger.database.engine import chunks
from workers.ledger.database.transaction import LedgerUnavailable, read_once, run_in_transaction

log = structlog.get_logger()

KEYS = "charging_keys"
"""What `drive_readings` calls the list of keys."""
LOOK_EVERY = timedelta(seconds=2)
SHARE = 10
"""A look pauses for so many times as long as it took: at most a tenth of a core goes into copying."""
AT_ONCE = 1000
LATE = timedelta(minutes=1)
"""What has been read may be committed so much later."""
LOOKED_UP_EVERY = timedelta(minutes=1)
"""How often the key of an open session is looked for that had none."""
PATIENCE = 2.0

EMPTY: Mapping[str, frozenset[str]] = {}


class PolicyCache:
    """A copy of what policies ask for. Any thread may ask; all of it answers at once."""

    def __init__(self, engine: Engine, settings: Settings) -> None:
        self._engine = engine
        self._settings = settings
        self._keys: dict[str, charging_keys.KeyRow] = {}
        self._generation = 0
        self._keys_synced_at: datetime | None = None
        self._balances: dict[str, BalanceSnapshot] = {}
        self._balances_since = datetime.now(UTC) - settings.authorize_balances_stale
        self._asked: set[str] = set()
        self._running = EMPTY
        self._sessions_read_at: datetime | None = None
        self._keys_of: dict[str, Collection[str]] = {}
        self._looked_up: dict[str, float] = {}
        self._wants_sessions = settings.authorize_one_session
        self._away = False
        self._stop = threading.Event()
        self._looked = threading.Event()
        self._thread = threading.Thread(target=self._run, name="facts", daemon=True)

    def start(self, patience: timedelta) -> None:
        """Begin to look, and wait so long at most for the first look."""
        self._thread.start()
        self._looked.wait(patience.total_seconds())

    def stop(self) -> None:
        """Look no more."""
        self._stop.set()
        self._thread.join()

    def charging_key(self, identifier: str) -> ChargingKeySnapshot | None:
        """Find a key, however it is spelt."""
        for spelt in candidate_spellings(identifier, self._settings.authorize_key_bytes):
            found = self._keys.get(spelt)
            if found is not None:
                return ChargingKeySnapshot(
                    found.identifier,
                    found.enabled,
                    found.valid_to,
                    found.contract_id,
                    found.visual_number,
                    found.fleet_id,
                    self._keys_synced_at,
                )
        return None

    def keys_synced_at(self) -> datetime | None:
        """Say when all keys were read."""
        return self._keys_synced_at

    def balance(self, user_id: str) -> BalanceSnapshot | None:
        """Find a balance; the clock hears that it was asked for, and reads it anew if it is old."""
        self._asked.add(user_id)
        return self._balances.get(user_id)

    def open_sessions(self, key: str | None, user_id: str | None = None) -> Collection[str]:
        """Name the open sessions of a key and of a user. They are looked through once somebody has asked for them."""
        self._wants_sessions = True
        running = self._running
        names = (
            [f"key:{spelt}" for spelt in candidate_spellings(key, self._settings.authorize_key_bytes)] if key else []
        )
        names += [f"user:{user_id}"] if user_id else []
        return {session_id for name in names for session_id in running.get(name, ())}

    def sessions_read_at(self) -> datetime | None:
        """Say when the open sessions were looked through."""
        return self._sessions_read_at

    def refresh(self) -> None:
        """Bring the copy up to date. Raises LedgerUnavailable."""
        now = datetime.now(UTC)
        read_once(self._engine, lambda conn: self._refresh_all(conn, now))
        self._record_demand(now)

    def _run(self) -> None:
        while not self._stop.is_set():
            begun = time.monotonic()
            try:
                self.refresh()
            except LedgerUnavailable as failure:
                if not self._away:
                    log.warning("facts.growing_old", reason=str(failure))
                self._away = True
            else:
                if self._away:
                    log.info("facts.renewed")
                self._away = False
            self._looked.set()
            self._stop.wait(max(LOOK_EVERY.total_seconds(), SHARE * (time.monotonic() - begun)))

    def _refresh_all(self, conn: Connection, now: datetime) -> None:
        self._look_at_keys(conn)
        self._look_at_balances(conn, now)
        if self._wants_sessions:
            self._look_at_sessions(conn, now)

    def _look_at_keys(self, conn: Connection) -> None:
        last = sync_state.get(conn, KEYS)
        if last is None or last.read_at is None:
            return
        if last.generation != self._generation:
            after = ""
            while some := charging_keys.changed(conn, self._generation, after, AT_ONCE):
                for row, is_listed in some:
                    if is_listed:
                        self._keys[row.identifier] = row
                    else:
                        self._keys.pop(row.identifier, None)
                after = some[-1][0].identifier
                time.sleep(0)  # others have their turn
            self._generation = last.generation
        self._keys_synced_at = last.read_at

    def _look_at_balances(self, conn: Connection, now: datetime) -> None:
        for one in balances.read_since(conn, self._balances_since - LATE):
            if one.amount is None:
                self._balances.pop(one.user_id, None)
            else:
                self._balances[one.user_id] = BalanceSnapshot(one.amount, one.read_at)
        self._balances_since = now

    def _look_at_sessions(self, conn: Connection, now: datetime) -> None:
        running: defaultdict[str, set[str]] = defaultdict(set)
        found = set()
        for session in session_keys.open_sessions(conn, now - self._settings.authorize_session_longest):
            found.add(session.session_id)
            if session.user_id is not None:
                running[f"user:{session.user_id}"].add(session.session_id)
        self._look_up_keys(conn, found)
        for session_id, keys in self._keys_of.items():
            for key in keys:
                running[f"key:{key}"].add(session_id)
        self._running = {name: frozenset(ids) for name, ids in running.items()}
        self._sessions_read_at = now

    def _look_up_keys(self, conn: Connection, session_ids: Collection[str]) -> None:
        """Find the keys of open sessions: each time for those without one, though not again and again."""
        self._keys_of = {each: keys for each, keys in self._keys_of.items() if each in session_ids}
        self._looked_up = {each: at for each, at in self._looked_up.items() if each in session_ids}
        now, span = time.monotonic(), LOOKED_UP_EVERY.total_seconds()
        unknown = [
            each for each in session_ids if each not in self._keys_of and now - self._looked_up.get(each, -span) >= span
        ]
        for some in chunks(unknown, AT_ONCE):
            for session_id, key in session_keys.keys_of(conn, some):
                self._keys_of[session_id] = {*self._keys_of.get(session_id, ()), key}
            self._looked_up |= dict.fromkeys(some, now)
            time.sleep(0)

    def _record_demand(self, now: datetime) -> None:
        asked, self._asked = self._asked, set()
        try:
            every = self._settings.authorize_balances_every
            if asked:
                run_in_transaction(
                    self._engine,
                    lambda ledger: balances.request(ledger, asked, now, older_than=every),
                    patience=PATIENCE,
                )
        except LedgerUnavailable:
            self._asked |= asked
            raise
