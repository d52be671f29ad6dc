"""Everything that is known of a charging session: its record, its timeline, CDRs, fee notices and polls."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection

from handlers.kit.session import Session
from ingest.config.settings import Settings
from ingest.wire.timestamps import utc_now
from workers.diagnostics.session_timeline import TimelineEntry, timeline
from workers.ledger import cdr_queries, fee_warnings, session_polls, sessions
from workers.ledger.cdr_queries import CdrFilters, CdrRow
from workers.ledger.fee_warnings import FeeWarningRow, WarningFilters
from workers.ledger.session_polls import PollState
from workers.lists.cdr_list import CDRS
from workers.lists.driver_record import explain_warning
from workers.lists.formatting import Json, iso, sentence_text
from workers.lists.push_list import WARNINGS
from workers.lists.session_list import ENTRIES, POLLS, SESSIONS, reconciled


@dataclass(frozen=True)
class SessionRecord:
    """What the ledger knows of a session, repeats among its CDRs."""

    session: Session
    entries: Sequence[TimelineEntry]
    cdrs: Sequence[CdrRow]
    warnings: Sequence[FeeWarningRow]
    poll: PollState | None

    @property
    def is_known(self) -> bool:
        """Whether anything is known of it."""
        return bool(self.entries or self.cdrs) or self.session != Session.empty(self.session.session_id)

    def json(self) -> dict[str, Json]:
        """Return it for programs; each push is below the delivery that it followed from."""
        return {
            **SESSIONS.json(self.session),
            "cdrs": [CDRS.json(cdr) for cdr in self.cdrs if not cdr.is_repeat],
            "warnings": [
                WARNINGS.json(each) | {"sentence": sentence_text(explain_warning(each))} for each in self.warnings
            ],
            "timeline": [ENTRIES.json(entry) for entry in self.entries],
            "healed": {status: iso(at) for status, at in reconciled(self.session).items()},
            "drive": POLLS.json(self.poll) if self.poll else None,
        }


def read_session(ledger: Connection, settings: Settings, session_id: str) -> SessionRecord:
    """Read what is known of a session."""
    return SessionRecord(
        session=sessions.get(ledger, session_id) or Session.empty(session_id),
        entries=timeline(ledger, session_id, settings.clock_skew),
        cdrs=list(cdr_queries.find(ledger, CdrFilters(session_id=session_id, with_repeats=True), None)),
        warnings=list(fee_warnings.find(ledger, WarningFilters(session_id=session_id), utc_now())),
        poll=session_polls.states(ledger, [session_id]).get(session_id),
    )
