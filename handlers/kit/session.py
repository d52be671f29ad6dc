"""The record of a charging session: facts that merge in any order, and properties that follow from them.

request -> envelope -> inbox -> relay -> jobs -> [handler] -> ledger
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime, timedelta
from typing import Any, Self

from handlers.kit.statuses import FINAL_STATUSES, ORDER_ANOMALIES, STATUS_RANK, Anomaly

EVENT = "event"
"""The source of a fact from one of the session's events."""
DRIVE = "drive"
"""The source of a fact from the Drive API."""
NEVER = datetime.min.replace(tzinfo=UTC)
"""The time of what has not happened."""
FINAL_STATUS = "COMPLETE"
"""The status after which nothing changes, if it is from the Drive API. For the ends of a session see FINAL_STATUSES."""


@dataclass(frozen=True, slots=True)
class StatusTimes:
    """The first and the last time of a status, and its sources."""

    first_at: datetime
    last_at: datetime
    sources: frozenset[str]


@dataclass(frozen=True, slots=True, order=True)
class DriverAssignment:
    """When a user was last named as the driver, and by which source."""

    at: datetime
    source: str


@dataclass(frozen=True, slots=True, order=True)
class FeeNotice:
    """The latest notice of one type of fee: its time, from when the fee applies, and its source."""

    at: datetime
    applies_from: datetime
    source: str
    moved_at: datetime = NEVER
    """The time of the latest notice with another start: it differs each time that the start moves, even back."""


@dataclass(frozen=True, slots=True, order=True)
class OperatorName:
    """The name of the charger's operator: its location's goes before the session's own, which is less exact."""

    is_of_location: bool
    at: datetime
    """The start of the session."""
    name: str


@dataclass(frozen=True, slots=True)
class ClockSkew:
    """A time that was ahead of our clock when it was received, by more than is allowed."""

    at: datetime
    received_at: datetime
    source: str

    @property
    def span(self) -> timedelta:
        """By how much it was ahead."""
        return self.at - self.received_at


@dataclass(frozen=True, slots=True)
class Session:
    """What is known of a session, with times in UTC. Sessions merge in any order, see `handlers.kit.merge`."""

    session_id: str
    statuses: Mapping[str, StatusTimes] = field(default_factory=dict)
    users: Mapping[str, DriverAssignment] = field(default_factory=dict)
    fees: Mapping[str, FeeNotice] = field(default_factory=dict)
    clock_skew: ClockSkew | None = None
    """The time that was furthest ahead of our clock, if one was."""
    operator_name: OperatorName | None = None

    @classmethod
    def empty(cls, session_id: str) -> Self:
        """Return a session of which nothing is known yet."""
        return cls(session_id)

    @property
    def status(self) -> str | None:
        """The status with the latest event time; of several at that time the most final (`STATUS_RANK`).

        A completion from the Drive API is final, whatever its time: events may come from other clocks.
        """
        if FINAL_STATUS in self.statuses and DRIVE in self.statuses[FINAL_STATUS].sources:
            return FINAL_STATUS
        return _max_key(
            self.statuses, lambda status: (self.statuses[status].last_at, STATUS_RANK.get(status, 0), status)
        )

    @property
    def user_id(self) -> str | None:
        """The user of the latest event that names one; of several at that time the alphabetically last."""
        return _max_key(self.users, lambda user_id: (self.users[user_id].at, user_id))

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
        return _max_key(self.fees, lambda fee_type: (self.fees[fee_type], fee_type))

    @property
    def fee_will_apply_from(self) -> datetime | None:
        """From when the fee of the latest notice will apply."""
        fee_type = self.fee_type
        return None if fee_type is None else self.fees[fee_type].applies_from

    @property
    def operator(self) -> str | None:
        """The operator of the charger, once the session was read from the Drive API."""
        return None if self.operator_name is None else self.operator_name.name

    @property
    def sources(self) -> frozenset[str]:
        """The sources of all facts."""
        facts: list[DriverAssignment | FeeNotice] = [*self.users.values(), *self.fees.values()]
        return frozenset(fact.source for fact in facts).union(*(times.sources for times in self.statuses.values()))

    @property
    def is_over(self) -> bool:
        """Whether the session has ended, by its status."""
        return self.status in FINAL_STATUSES

    def is_over_for(self, at: datetime) -> bool:
        """Whether the session is over for a notice of that time; for the table see `handlers.fee_warning`."""
        has_ended_after = self.is_over and self.statuses[str(self.status)].last_at > at
        return has_ended_after or FINAL_STATUS in self.statuses

    @property
    def anomalies(self) -> tuple[Anomaly, ...]:
        """The contradictions among the facts, in the order of `Anomaly`."""
        if len(self.statuses) < 2 and len(self.users) < 2 and self.clock_skew is None:  # noqa: PLR2004 - one contradicts nothing
            return ()
        found = {Anomaly.TWO_USERS} if len(self.users) > 1 else set()
        if self.clock_skew is not None:
            found.add(Anomaly.AHEAD_OF_CLOCK)
        for anomaly, (before, after) in ORDER_ANOMALIES.items():
            earlier, later = self.statuses.get(before), self.statuses.get(after)
            if earlier and later and later.last_at > earlier.first_at:
                found.add(anomaly)
        return tuple(anomaly for anomaly in Anomaly if anomaly in found)

    def to_document(self) -> dict[str, Any]:
        """Return the facts as a JSON document without what is usual; equal sessions have equal documents."""
        document: dict[str, Any] = {"statuses": _documents(self.statuses), "users": _documents(self.users)}
        if self.fees:
            document["fees"] = _documents(self.fees)
        if self.clock_skew is not None:
            document["lead"] = _document(self.clock_skew)
        if self.operator_name is not None:
            document["operator"] = _document(self.operator_name)
        return document

    @classmethod
    def from_document(cls, session_id: str, document: Mapping[str, Any] | None) -> Self:
        """Return the session of a document by `to_document`; None is a session of which nothing is known yet."""
        facts = document or {}
        at = datetime.fromisoformat
        operator = facts.get("operator")
        skew = facts.get("lead")  # the older name of a clock skew: ledgers have it
        return cls(
            session_id,
            statuses={
                status: StatusTimes(
                    at(fact.get("first_at", fact["last_at"])),
                    at(fact["last_at"]),
                    frozenset(fact.get("sources", (EVENT,))),
                )
                for status, fact in facts.get("statuses", {}).items()
            },
            users={
                user_id: DriverAssignment(at(fact["at"]), fact.get("source", EVENT))
                for user_id, fact in facts.get("users", {}).items()
            },
            fees={
                fee_type: FeeNotice(
                    at(fact["at"]),
                    at(fact["applies_from"]),
                    fact.get("source", EVENT),
                    at(fact.get("moved_at", NEVER.isoformat())),
                )
                for fee_type, fact in facts.get("fees", {}).items()
            },
            clock_skew=skew and ClockSkew(at(skew["at"]), at(skew["received_at"]), skew.get("source", EVENT)),
            operator_name=operator and OperatorName(operator["is_of_location"], at(operator["at"]), operator["name"]),
        )


# Looked up once: it takes longer than the rest of a document.
FIELD_NAMES: Mapping[type, tuple[str, ...]] = {
    kind: tuple(each.name for each in fields(kind))
    for kind in (StatusTimes, DriverAssignment, FeeNotice, ClockSkew, OperatorName)
}
# Left out of a document: these times where they are `last_at` or NEVER, and the source EVENT.
MAY_BE_LEFT_OUT = frozenset({"first_at", "moved_at"})
BY_EVENT = frozenset({EVENT})


def _max_key(facts: Mapping[str, object], key: Callable[[str], Any]) -> str | None:
    if len(facts) == 1:  # the usual case, many times a batch
        return next(iter(facts))
    return max(facts, key=key, default=None)


def _documents(facts: Mapping[str, StatusTimes | DriverAssignment | FeeNotice]) -> dict[str, Any]:
    return {name: _document(fact) for name, fact in sorted(facts.items())}


def _document(fact: StatusTimes | DriverAssignment | FeeNotice | ClockSkew | OperatorName) -> dict[str, Any]:
    usual = fact.last_at if isinstance(fact, StatusTimes) else NEVER
    document: dict[str, Any] = {}
    for name in FIELD_NAMES[type(fact)]:
        value = getattr(fact, name)
        if isinstance(value, datetime):
            if value != usual or name not in MAY_BE_LEFT_OUT:
                document[name] = value.isoformat()
        elif isinstance(value, frozenset):
            if value != BY_EVENT:
                document[name] = sorted(value)
        elif value != EVENT or name != "source":
            document[name] = value
    return document


class SessionWithDriver(Session):
    """A session whose driver is known, as `Context.session` returns it."""

    __slots__ = ()

    @property
    def user_id(self) -> str:
        """The driver: the user of the latest event that names one."""
        user_id = super().user_id
        if user_id is None:
            raise LookupError("no event of this session has named its driver")
        return user_id
