"""A charging session as its events tell it: facts that merge in any order, and what follows from them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Self

STATUSES: Mapping[str, str] = {
    "START_FAILED": "The start was refused. The least final, because Plugsurfing may still report a start after it.",
    "STARTED": "The session runs.",
    "STOP_FAILED": "A stop was asked for and failed: the session still runs.",
    "STOPPED": "The session has ended; it is not priced yet.",
    "COMPLETE": "The session has ended and nothing more will change.",
}
"""The statuses we know, from the least to the most final, and what each means."""

STATUS_RANK: Mapping[str, int] = {status: rank for rank, status in enumerate(STATUSES, start=1)}
"""What decides between two statuses of the same event time: the higher rank. An unknown status ranks 0, below all."""

OVER = frozenset({"START_FAILED", "STOPPED", "COMPLETE"})
"""The statuses in which nothing is running any more."""


class Anomaly(StrEnum):
    """What cannot be true of one session, and was said nevertheless. It is kept and shown, and changes nothing."""

    TWO_USERS = "two_users"
    """Events of the session name different users; the latest one counts."""
    STARTED_AFTER_COMPLETE = "started_after_complete"
    """A start has a later time than a completion."""
    STARTED_AFTER_STOPPED = "started_after_stopped"
    """A start has a later time than a stop."""
    STARTED_AFTER_START_FAILED = "started_after_start_failed"
    """A start has a later time than a failure to start."""
    START_FAILED_AFTER_STARTED = "start_failed_after_started"
    """A failure to start has a later time than a start."""


OUT_OF_TURN: Mapping[Anomaly, tuple[str, str]] = {
    Anomaly.STARTED_AFTER_COMPLETE: ("COMPLETE", "STARTED"),
    Anomaly.STARTED_AFTER_STOPPED: ("STOPPED", "STARTED"),
    Anomaly.STARTED_AFTER_START_FAILED: ("START_FAILED", "STARTED"),
    Anomaly.START_FAILED_AFTER_STARTED: ("STARTED", "START_FAILED"),
}
"""Two statuses each, of which the second should not come after the first."""


@dataclass(frozen=True, slots=True)
class Moment:
    """When a session was first and last said to be in a status, and by whom ("event": one of its events)."""

    first_at: datetime
    last_at: datetime
    sources: frozenset[str]


@dataclass(frozen=True, slots=True, order=True)
class Naming:
    """When a user was last named as the session's driver, and by whom."""

    at: datetime
    source: str


@dataclass(frozen=True, slots=True, order=True)
class FeeNotice:
    """The latest warning of one type of fee: when it was said, and from when the fee will apply."""

    at: datetime
    applies_from: datetime


@dataclass(frozen=True, slots=True)
class Session:
    """What is known of a session: facts by name, and properties that follow from them. All times are in UTC.

    The facts are such that merging two sessions never depends on an order (see `handlers.kit.merge`).
    """

    session_id: str
    statuses: Mapping[str, Moment] = field(default_factory=dict)
    users: Mapping[str, Naming] = field(default_factory=dict)
    fees: Mapping[str, FeeNotice] = field(default_factory=dict)

    @classmethod
    def empty(cls, session_id: str) -> Self:
        """Begin a session of which nothing is known yet."""
        return cls(session_id)

    @property
    def status(self) -> str | None:
        """The status with the latest event time; of several at that time the most final (`STATUS_RANK`)."""
        return max(
            self.statuses,
            key=lambda status: (self.statuses[status].last_at, STATUS_RANK.get(status, 0), status),
            default=None,
        )

    @property
    def user_id(self) -> str | None:
        """The user whom the latest event that names one names; of several at that time the alphabetically last."""
        return max(self.users, key=lambda user_id: (self.users[user_id].at, user_id), default=None)

    @property
    def started_at(self) -> datetime | None:
        """The first start."""
        return self.statuses["STARTED"].first_at if "STARTED" in self.statuses else None

    @property
    def stopped_at(self) -> datetime | None:
        """The last stop."""
        return self.statuses["STOPPED"].last_at if "STOPPED" in self.statuses else None

    @property
    def completed_at(self) -> datetime | None:
        """The last completion."""
        return self.statuses["COMPLETE"].last_at if "COMPLETE" in self.statuses else None

    @property
    def fee_type(self) -> str | None:
        """The type of the latest fee notice; of several at one time the one whose fee applies last."""
        return max(self.fees, key=lambda fee_type: (self.fees[fee_type], fee_type), default=None)

    @property
    def fee_will_apply_from(self) -> datetime | None:
        """From when the fee of the latest notice will apply."""
        fee_type = self.fee_type
        return None if fee_type is None else self.fees[fee_type].applies_from

    @property
    def is_over(self) -> bool:
        """Whether nothing is running any more, as far as the latest status says."""
        return self.status in OVER

    @property
    def anomalies(self) -> tuple[Anomaly, ...]:
        """What cannot be true of one session, in the order of `Anomaly`."""
        found = {Anomaly.TWO_USERS} if len(self.users) > 1 else set()
        for anomaly, (before, after) in OUT_OF_TURN.items():
            earlier, later = self.statuses.get(before), self.statuses.get(after)
            if earlier and later and later.last_at > earlier.first_at:
                found.add(anomaly)
        return tuple(anomaly for anomaly in Anomaly if anomaly in found)

    def to_document(self) -> dict[str, Any]:
        """Write the facts as JSON can hold them; equal sessions give equal documents."""
        return {
            "statuses": {
                status: {
                    "first_at": moment.first_at.isoformat(),
                    "last_at": moment.last_at.isoformat(),
                    "sources": sorted(moment.sources),
                }
                for status, moment in sorted(self.statuses.items())
            },
            "users": {
                user_id: {"at": naming.at.isoformat(), "source": naming.source}
                for user_id, naming in sorted(self.users.items())
            },
            "fees": {
                fee_type: {"at": notice.at.isoformat(), "applies_from": notice.applies_from.isoformat()}
                for fee_type, notice in sorted(self.fees.items())
            },
        }

    @classmethod
    def from_document(cls, session_id: str, document: Mapping[str, Any] | None) -> Self:
        """Read back what `to_document` wrote; None is a session of which nothing is known yet."""
        facts = document or {}
        at = datetime.fromisoformat
        return cls(
            session_id,
            statuses={
                status: Moment(at(fact["first_at"]), at(fact["last_at"]), frozenset(fact["sources"]))
                for status, fact in facts.get("statuses", {}).items()
            },
            users={user_id: Naming(at(fact["at"]), fact["source"]) for user_id, fact in facts.get("users", {}).items()},
            fees={
                fee_type: FeeNotice(at(fact["at"]), at(fact["applies_from"]))
                for fee_type, fact in facts.get("fees", {}).items()
            },
        )


class DrivenSession(Session):
    """A session whose driver is known, as `ctx.session` gives it."""

    __slots__ = ()

    @property
    def user_id(self) -> str:
        """The driver: the user whom the latest event that names one names."""
        user_id = super().user_id
        if user_id is None:
            raise LookupError("no event of this session has named its driver")
        return user_id
