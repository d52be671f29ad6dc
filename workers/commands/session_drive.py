"""What `webhooks session` shows of the Drive API: what it alone has told, and how often it is asked."""

from collections.abc import Iterator
from datetime import datetime

from handlers.kit.session import EVENT, Session
from handlers.kit.statuses import STATUSES
from workers.commands.output import Cell, Json, iso, local
from workers.drive.session_facts import UNKNOWN_TIME
from workers.ledger.session_polls import PollState
from workers.ledger.tables.reconciliation import PollOutcome

Line = tuple[datetime | None, Cell, Cell, Cell]

OUTCOME_TEXT = {
    PollOutcome.WAITING: "to be asked",
    PollOutcome.OPEN: "not over there",
    PollOutcome.COMPLETE: "complete there",
    PollOutcome.MISSING: "not known there",
    PollOutcome.FAILED: "no answer that is understood",
    PollOutcome.NOT_NEEDED: "not needed any more",
    PollOutcome.GIVEN_UP: "asked for long enough",
}


def healed_lines(record: Session) -> Iterator[Line]:
    """Write a line of the timeline for each thing that no event has told."""
    for status, at in reconciled(record).items():
        events = STATUSES[status].events if status in STATUSES else ()
        yield at, None, f"Drive API: {status}", f"no {events[0]} came" if events else "no event says this"
    if record.user_id is not None and record.users[record.user_id].source != EVENT:
        at = record.users[record.user_id].at
        yield None if at == UNKNOWN_TIME else at, None, "Drive API: driver", f"{record.user_id}, whom no event named"


def reconciled(record: Session) -> dict[str, datetime | None]:
    """Name the statuses that only the Drive API has told, each with its time there, if it has one."""
    return {
        status: None if moment.last_at == UNKNOWN_TIME else moment.last_at
        for status, moment in record.statuses.items()
        if EVENT not in moment.sources
    }


def look_in_words(look: PollState | None) -> str | None:
    """Say what the Drive API was asked, and when it is asked again."""
    if look is None:
        return None
    said = [OUTCOME_TEXT[look.outcome]]
    if look.read_at is not None:
        said.append(f"read at {local(look.read_at)}")
    if look.next_at is not None:
        said.append(f"next at {local(look.next_at)}")
    return ", ".join(said)


def healed_json(record: Session, look: PollState | None) -> dict[str, Json]:
    """Write it as `session --json` does."""
    told: dict[str, Json] = {status: iso(at) for status, at in reconciled(record).items()}
    return {"healed": told, "drive": None if look is None else look_json(look)}


def look_json(look: PollState) -> dict[str, Json]:
    """Write what came of asking."""
    return {
        "outcome": look.outcome.value,
        "status": look.status,
        "attempts": look.attempts,
        "read_at": iso(look.read_at),
        "next_at": iso(look.next_at),
        "reason": look.reason,
    }
