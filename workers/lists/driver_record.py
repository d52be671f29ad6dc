"""Everything that is known of a driver, and for each session in plain words why there was a warning or none."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection

from handlers.fee_warning import TOO_LATE
from handlers.kit.session import Session
from ingest.wire.timestamps import utc_now
from workers.ledger import (
    authorizations,
    cdr_queries,
    charging_keys,
    devices,
    downtimes,
    fee_warnings,
    pushes,
    sessions,
)
from workers.ledger.authorizations import DecisionRow
from workers.ledger.cdr_queries import CdrFilters, CdrRow
from workers.ledger.devices import DeviceRow
from workers.ledger.downtimes import DowntimeRow
from workers.ledger.fee_warnings import FeeWarningRow, WarningFilters, WarningOutcome
from workers.ledger.pushes import PushRow
from workers.lists.authorization_list import AUTHORIZATION_QUERY, DECISIONS
from workers.lists.cdr_list import CDR_QUERY, CDRS
from workers.lists.device_list import DEVICE_QUERY, DEVICES
from workers.lists.formatting import Cell, Json, Sentence, human_duration, sentence_text
from workers.lists.list_query import ListQuery
from workers.lists.push_list import PUSH_QUERY, PUSHES, WARNING_QUERY, WARNINGS
from workers.lists.session_list import SESSIONS

NO_NOTICE = "No fee notice came for this session, so there was nothing to warn of."
NO_DRIVER = "no event of the session has named its driver"
REASONS = {
    NO_DRIVER: "it was not known who was charging until the fee began",
    "the session is over": "the session had already ended",
    "an earlier notice has said the same": "an earlier notice had said the same",
    "no handler warns of it": "no plugin is loaded that warns of fees",
    "a later notice has moved the start of this fee": "a later notice moved the start of the fee",
    "the driver has no device": "no phone is registered for the driver",
    "the provider no longer knows the device": "the driver's phone is no longer registered: the app was removed, say",
}
"""What handlers and channels record, in the words of somebody who does not program."""


@dataclass(frozen=True)
class ExplainedSession:
    """A session, and a sentence for each fee notice of it, or one that says why there is none."""

    session: Session
    sentences: tuple[Sentence, ...]


@dataclass(frozen=True)
class DriverRecord:
    """What the ledger knows of a driver, each list with the newest first."""

    user_id: str
    sessions: Sequence[ExplainedSession]
    devices: Sequence[DeviceRow]
    warnings: Sequence[FeeWarningRow]
    pushes: Sequence[PushRow]
    cdrs: Sequence[CdrRow]
    authorizations: Sequence[DecisionRow]

    @property
    def is_known(self) -> bool:
        """Whether anything is known of them."""
        return any((self.sessions, self.devices, self.warnings, self.pushes, self.cdrs))

    def lists(self) -> Sequence[tuple[str, ListQuery[Any], Sequence[Any]]]:
        """Return the lists below the sessions, each with its title."""
        return (
            ("Pushes", PUSH_QUERY, self.pushes),
            ("Fee notices", WARNING_QUERY, self.warnings),
            ("CDRs", CDR_QUERY, self.cdrs),
            ("Authorizations", AUTHORIZATION_QUERY, self.authorizations),
            ("Devices", DEVICE_QUERY, self.devices),
        )

    def json(self) -> dict[str, Json]:
        """Return it for programs."""
        return {
            "user_id": self.user_id,
            "sessions": [
                SESSIONS.json(each.session) | {"sentences": [sentence_text(one) for one in each.sentences]}
                for each in self.sessions
            ],
            "devices": [DEVICES.json(each) for each in self.devices],
            "warnings": [WARNINGS.json(each) for each in self.warnings],
            "pushes": [PUSHES.json(each) for each in self.pushes],
            "cdrs": [CDRS.json(each) for each in self.cdrs],
            "authorizations": [DECISIONS.json(each) for each in self.authorizations],
        }


def read_driver(ledger: Connection, user_id: str, limit: int | None) -> DriverRecord:
    """Read what is known of a driver, whose id may be in any case; of each list the newest, up to the limit."""
    theirs = sessions.of_user(ledger, user_id, limit)
    session_ids = [each.session_id for each in theirs]
    now = utc_now()
    # All of them: that there was none for a session is said only if that is so.
    warned = list(fee_warnings.find(ledger, WarningFilters(user_id=user_id), now))
    of_user = CdrFilters(user_id=user_id, user_sessions=session_ids)
    cdrs = list(cdr_queries.find(ledger, of_user, limit))
    keys = {key for _, key in charging_keys.keys_of_sessions(ledger, session_ids)}
    keys |= {cdr.charging_key for cdr in cdrs if cdr.charging_key}
    first_at = min((each.started_at for each in theirs if each.started_at), default=now)
    closed = downtimes.find(ledger, ended_after=first_at)
    return DriverRecord(
        user_id=next((each.user_id for each in theirs if each.user_id), user_id),
        sessions=[explain(each, warned, closed, now) for each in theirs],
        devices=devices.find(ledger, person=user_id, limit=limit),
        warnings=warned[:limit],
        pushes=pushes.find(ledger, person=user_id, limit=limit),
        cdrs=cdrs,
        authorizations=authorizations.find_of(ledger, session_ids, keys, limit),
    )


def explain(
    session: Session, warnings: Iterable[FeeWarningRow], closed: Iterable[DowntimeRow], now: datetime
) -> ExplainedSession:
    """Explain what its driver heard of its fees, and why not more."""
    found = tuple(explain_warning(each) for each in warnings if each.session_id == session.session_id)
    if found:
        return ExplainedSession(session, found)
    began_at, ended_at = session.started_at or session.completed_at, session.completed_at or session.stopped_at or now
    missed = [
        Sentence.of(
            f"{NO_NOTICE} But nothing could be received from ",
            each.closed_at,
            " to ",
            each.opened_at,
            ", while it ran: a notice that came then is lost.",
        )
        for each in closed
        if began_at is not None and each.closed_at < ended_at and each.opened_at > began_at
    ]
    return ExplainedSession(session, tuple(missed) or (Sentence.of(NO_NOTICE),))


def explain_warning(warning: FeeWarningRow) -> Sentence:
    """Format in plain words whether a driver was warned, else why not, and whether it helped."""
    fee = f"{warning.fee_type.capitalize()} fee" if warning.fee_type else "Fee of unknown type"
    start: tuple[Cell, ...] = (fee,)
    if warning.fee_will_apply_from is not None:
        start = (f"{fee} from ", warning.fee_will_apply_from)
    return Sentence.of(*start, f": {_heard(warning)}{_ended(warning)}")


def _heard(warning: FeeWarningRow) -> str:
    lead = None if warning.lead_seconds is None else timedelta(seconds=warning.lead_seconds)
    reason = REASONS.get(warning.reason or "", warning.reason)
    match warning.outcome:
        case WarningOutcome.SENT:
            return (
                f"the driver was warned {human_duration(lead)} before it began." if lead else "the driver was warned."
            )
        case WarningOutcome.LATE if lead is not None:
            return f"the driver was warned too late, {human_duration(-lead)} after it had begun."
        case WarningOutcome.LATE:
            return f"the driver was not warned, because {_lateness(warning)}."
        case WarningOutcome.WAITING:
            return "the driver is not warned yet" + (f": {reason}." if reason else ".")
        case WarningOutcome.DEAD:
            return f"the driver was not warned, because the warning failed: {reason or 'without a reason'}."
        case _:
            return f"the driver was not warned, because {reason or 'there was nothing to tell'}."


def _lateness(warning: FeeWarningRow) -> str:
    starts_at = warning.fee_will_apply_from
    if starts_at is None or warning.reason not in {None, TOO_LATE, "its time had passed before it could be sent"}:
        return warning.reason or "it was too late"
    ahead = starts_at - warning.received_at
    if ahead <= timedelta():
        return f"Plugsurfing's notice came {human_duration(-ahead)} after the fee had begun"
    return f"Plugsurfing's notice came only {human_duration(ahead)} before the fee began, and was handled too late"


def _ended(warning: FeeWarningRow) -> str:
    if warning.fee_avoided is None:
        return ""
    return (
        " The session ended before the fee began."
        if warning.fee_avoided
        else " The session went on, so the fee applies."
    )
