"""Keeps what was answered at the charger: after the answer, in a thread, several answers in one transaction."""

import threading
from collections import deque
from datetime import timedelta

import structlog
from sqlalchemy import Engine

from handlers.kit.key_identifiers import normalize
from ingest.authorize.decision_record import DecisionRecord, DecisionRecorder
from ingest.config.settings import Settings
from workers.ledger import authorizations
from workers.ledger.authorizations import MICROSECOND, DecisionRow
from workers.ledger.database.engine import create_ledger_engine
from workers.ledger.database.transaction import LedgerUnavailable, run_in_transaction

log = structlog.get_logger()

MAX_BUFFERED = 50_000
"""Verdicts in memory, some 50 MB, while the ledger is away; what comes then is dropped, and counted."""
AT_ONCE = 500
PATIENCE = 2.0
"""Seconds that one attempt may take, so that an end is not waited for."""
PAUSE = timedelta(seconds=1)
FLUSH_TIMEOUT = timedelta(seconds=5)


class BufferedDecisionRecorder:
    """Keeps verdicts in the ledger; while it is away they wait in memory, and what finds no room is dropped.

    A `Recorder`: `record` is for the loop that answers, and neither waits nor raises.
    """

    def __init__(self, engine: Engine, *, most_waiting: int = MAX_BUFFERED) -> None:
        self._engine = engine
        self._most = most_waiting
        self._waiting: deque[DecisionRow] = deque()
        self._dropped = 0
        self._news = threading.Event()
        self._ends = threading.Event()
        self._away = False
        self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)

    def record(self, verdict: DecisionRecord) -> None:
        """Take a verdict to be kept."""
        if len(self._waiting) >= self._most:
            self._dropped += 1
        else:
            self._waiting.append(row_of(verdict))
        self._news.set()

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def stop(self) -> None:
        """Write what is waiting, for a few seconds at most, and say how much of it is lost."""
        self._ends.set()
        self._news.set()
        if self._thread.ident is not None:
            self._thread.join(FLUSH_TIMEOUT.total_seconds())
        self._dropped += len(self._waiting)
        self._log_dropped()

    def _run(self) -> None:
        is_last = False
        while not is_last:
            self._news.wait()
            self._news.clear()
            is_last = self._ends.is_set()
            while self._waiting and self._write_some():
                pass
            self._log_dropped()
            if self._waiting and not self._ends.wait(PAUSE.total_seconds()):
                self._news.set()

    def _write_some(self) -> bool:
        """Write the oldest, and say whether that went well."""
        some = [self._waiting[index] for index in range(min(AT_ONCE, len(self._waiting)))]
        try:
            run_in_transaction(self._engine, lambda ledger: authorizations.add(ledger, some), patience=PATIENCE)
        except LedgerUnavailable as failure:
            if not self._away:
                log.warning("decisions.waiting", reason=str(failure))
            self._away = True
            return False
        except Exception as failure:  # noqa: BLE001 - what cannot be written now never can; the rest must not wait for it
            log.warning("decisions.not_kept", reason=type(failure).__name__)
            self._dropped += len(some)
        if self._away:
            log.info("decisions.kept_again")
            self._away = False
        for _ in some:
            self._waiting.popleft()
        return True

    def _log_dropped(self) -> None:
        count, self._dropped = self._dropped, 0
        if count:
            log.error("decisions.dropped", count=count)


def row_of(verdict: DecisionRecord) -> DecisionRow:
    """Write a verdict as the ledger keeps it; the key in the spelling in which it can be found again."""
    asked = verdict.question
    return DecisionRow(
        id=verdict.id,
        at=asked.received_at,
        form=asked.form.value,
        decision=verdict.decision.allowed.value,
        policy=verdict.policy,
        reason=verdict.decision.reason or None,
        latency_us=verdict.latency // MICROSECOND,
        session_id=asked.session_id,
        reference_id=asked.reference_id,
        location_id=asked.location_id,
        country_code=asked.country_code,
        key=None if asked.key is None else normalize(asked.key),
        repeated=verdict.repeats is not None,
        failure=None if verdict.failure is None else verdict.failure.value,
    )


def open_recorder(settings: Settings) -> DecisionRecorder:
    """Open a recorder on the ledger; no connection is made before the first verdict."""
    return BufferedDecisionRecorder(create_ledger_engine(settings.database_url))
