"""Merge what the Drive API tells into the records of sessions, as if events had told it.

No handler is called for it: what nobody sent is no event. But runs that wait for news of a session get them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import Connection

from handlers.kit.merge import merge
from handlers.kit.session import Session
from workers.drive.models import DriveSession
from workers.drive.session_facts import COMPLETE, is_storable, status_of, to_session
from workers.ledger import run_schedule, session_keys, session_polls, sessions
from workers.ledger.poll_schedule import PollSchedule
from workers.ledger.session_polls import PollState
from workers.ledger.tables.reconciliation import PollOutcome


@dataclass(frozen=True)
class MergeResult:
    """What came of it."""

    changed: frozenset[str] = frozenset()
    """The sessions of which something was not known before."""
    wakes: bool = False
    """Runs that waited for one of them are due."""


def merge_drive_sessions(
    ledger: Connection, user_id: str, told: Sequence[DriveSession], read_at: datetime, rhythm: PollSchedule
) -> MergeResult:
    """Merge a user's sessions as the Drive API tells them, and note when each is to be read again, if it is not over.

    The driver is who was asked about. Where a session names its user is not documented: what is found there may be an
    id of somebody else's, and would be taken for another driver.
    """
    latest = {drive.session_id: drive.model_copy(update={"user_id": user_id}) for drive in told if is_storable(drive)}
    before = session_polls.looks(ledger, latest)
    first_seen = {key: seen_since(drive, before.get(key), read_at) for key, drive in latest.items()}
    changed: set[str] = set()

    def fold(key: str) -> Callable[[Session], Session]:
        facts = to_session(latest[key], first_seen[key])

        def folded(session: Session) -> Session:
            after = merge(session, facts)
            if after != session:
                changed.add(key)
            return after

        return folded

    sessions.merge(ledger, {key: fold(key) for key in latest})
    woken = run_schedule.wake_waiting(ledger, changed, datetime.now(UTC)) if changed else 0
    seen: dict[str, PollState] = {}
    for key, drive in latest.items():
        look = poll_result(drive, before.get(key), first_seen[key], rhythm, is_news=key in changed)
        if look is not None:
            seen[key] = look
    session_polls.record(ledger, seen, read_at)
    not_over = {key: drive for key, drive in latest.items() if drive.status != COMPLETE}
    # Nothing else says with which key a session was started.
    session_keys.record(
        ledger, {key: drive.charging_key_id for key, drive in not_over.items() if drive.charging_key_id}, read_at
    )
    return MergeResult(frozenset(changed), wakes=woken > 0)


def seen_since(drive: DriveSession, before: PollState | None, read_at: datetime) -> datetime:
    """Say when the Drive API was first seen to say what it says now."""
    if before is not None and before.status == status_of(drive) and before.status_at is not None:
        return before.status_at
    return read_at


def poll_result(
    drive: DriveSession, before: PollState | None, first_seen: datetime, rhythm: PollSchedule, *, is_news: bool
) -> PollState | None:
    """Say what is to be noted of a look at a session; nothing, if it is complete with its times, and never was due."""
    if drive.status == COMPLETE:
        if before is None and (drive.completed_at or drive.ended_at):
            return None
        return PollState(PollOutcome.COMPLETE, _looks(before) + 1, datetime.now(UTC), status_of(drive), first_seen)
    looks = 0 if is_news else _looks(before) + 1
    at = datetime.now(UTC)
    return PollState(PollOutcome.OPEN, looks, at, status_of(drive), first_seen, at + rhythm.delay(looks, drive.status))


def missed_poll(before: PollState | None, outcome: PollOutcome, reason: str, rhythm: PollSchedule) -> PollState:
    """Say what is to be noted of a look that showed nothing."""
    looks, at = _looks(before) + 1, datetime.now(UTC)
    known = before or PollState(outcome, looks)
    return PollState(outcome, looks, at, known.status, known.status_at, at + rhythm.delay(looks), reason)


def _looks(before: PollState | None) -> int:
    return 0 if before is None else before.attempts
