"""Write records of decisions to the ledger: after the response, by a thread, many in one transaction."""

import threading
from collections import deque
from datetime import timedelta

import structlog
from sqlalchemy import Engine

from handlers.kit.key_identifiers import normalize
from ingest.authorize.decisions import DecisionRecord
from workers.ledger import authorizations
from workers.ledger.authorizations import MICROSECOND, DecisionRow
from workers.ledger.database.transaction import LedgerUnavailable, run_in_transaction

log = structlog.get_logger()

MAX_BUFFERED = 50_000
"""Records in memory, some 50 MB, while the ledger is unavailable; further ones are dropped and counted."""
BATCH_SIZE = 500
WRITE_TIMEOUT = 2.0
"""Seconds that one attempt may take, so that a shutdown need not wait for it."""
PAUSE = timedelta(seconds=1)
FLUSH_TIMEOUT = timedelta(seconds=5)


class BufferedDecisionRecorder:
    """A `DecisionRecorder` that writes to the ledger, and buffers in memory while that is unavailable."""

    def __init__(self, engine: Engine, *, max_buffered: int = MAX_BUFFERED) -> None:
        self._engine = engine
        self._max_buffered = max_buffered
        self._buffer: deque[DecisionRow] = deque()
        self._dropped = 0
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._is_waiting = False
        self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)

    def record(self, record: DecisionRecord) -> None:
        """Buffer a record, or drop it if the buffer is full."""
        if len(self._buffer) >= self._max_buffered:
            self._dropped += 1
        else:
            self._buffer.append(row_of(record))
        self._wake.set()

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Flush the buffer within FLUSH_TIMEOUT, and log how many records are lost."""
        self._stopping.set()
        self._wake.set()
        if self._thread.ident is not None:
            self._thread.join(FLUSH_TIMEOUT.total_seconds())
        self._dropped += len(self._buffer)
        self._log_dropped()

    def _run(self) -> None:
        is_last = False
        while not is_last:
            self._wake.wait()
            self._wake.clear()
            is_last = self._stopping.is_set()
            while self._buffer and self._write_batch():
                pass
            self._log_dropped()
            if self._buffer and not self._stopping.wait(PAUSE.total_seconds()):
                self._wake.set()

    def _write_batch(self) -> bool:
        """Write the oldest records; return False if the ledger is unavailable."""
        batch = [self._buffer[index] for index in range(min(BATCH_SIZE, len(self._buffer)))]
        try:
            run_in_transaction(
                self._engine, lambda ledger: authorizations.insert(ledger, batch), retry_for=WRITE_TIMEOUT
            )
        except LedgerUnavailable as failure:
            if not self._is_waiting:
                log.warning("decisions.buffered", reason=str(failure))
            self._is_waiting = True
            return False
        except Exception as failure:  # noqa: BLE001 - it would fail again and again; the others must not wait for it
            log.warning("decisions.rejected", reason=type(failure).__name__)
            self._dropped += len(batch)
        if self._is_waiting:
            log.info("decisions.recovered")
            self._is_waiting = False
        for _ in batch:
            self._buffer.popleft()
        return True

    def _log_dropped(self) -> None:
        count, self._dropped = self._dropped, 0
        if count:
            log.error("decisions.dropped", count=count)


def row_of(record: DecisionRecord) -> DecisionRow:
    """Return the row of a record; the key in its normal spelling, by which it can be found."""
    request = record.request
    return DecisionRow(
        id=record.id,
        at=request.received_at,
        form=request.form.value,
        decision=record.decision.allowed.value,
        policy=record.policy,
        reason=record.decision.reason or None,
        latency_us=record.latency // MICROSECOND,
        session_id=request.session_id,
        reference_id=request.reference_id,
        location_id=request.location_id,
        country_code=request.country_code,
        key=None if request.key is None else normalize(request.key),
        repeated=record.repeats is not None,
        failure=None if record.failure is None else record.failure.value,
    )
