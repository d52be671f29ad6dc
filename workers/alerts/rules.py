"""What there are alerts about: each rule looks into the ledger, and says what has come about and what is gone."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from sqlalchemy import Connection

from ingest.config.durations import format_duration
from ingest.wire.envelope import Kind
from workers.alerts.alerts import Alert, AlertKind, escape_name
from workers.alerts.silence import baseline, comparable_windows
from workers.ledger import alert_queries, backlogs, recent_traffic, stale_sessions
from workers.ledger.alert_queries import LOOKBACK
from workers.ledger.backlogs import MOST_COUNTED, Backlog
from workers.ledger.states import WHOLE_DELIVERY

RESCAN = timedelta(minutes=10)
"""How far a look goes back behind the one before: a transaction may have been open for that long."""
MOST_EVENTS = 10_000
"""Events of a span that are counted; more is just as busy."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Why an alert is to be raised, and since when that is so."""

    alert: Alert
    since: datetime


@dataclass(frozen=True, slots=True)
class RuleResult:
    """What a look has found: causes of alerts, and by kind what open alerts are about whose causes are gone."""

    causes: Sequence[Finding] = ()
    resolved: Mapping[AlertKind, Collection[str]] = field(default_factory=dict)


def open_sessions(ledger: Connection, at: datetime, *, span: timedelta) -> RuleResult:
    """Find sessions that have run for longer than the span."""
    kind = AlertKind.SESSION_OPEN
    found = [
        Finding(
            Alert(
                kind,
                one.session_id,
                f"Session {escape_name(one.session_id)} started at {_moment(one.at)}, and after"
                f" {format_duration(span)} it is"
                f" still {escape_name(one.status)}.",
                session_id=one.session_id,
            ),
            one.known_at,
        )
        for one in stale_sessions.long_running_sessions(ledger, kind, at, span)
    ]
    return RuleResult(found, _gone(kind, stale_sessions.ended_sessions(ledger, kind)))


def missing_cdrs(ledger: Connection, at: datetime, *, span: timedelta) -> RuleResult:
    """Find complete sessions that have had no CDR for longer than the span."""
    kind = AlertKind.CDR_MISSING
    found = [
        Finding(
            Alert(
                kind,
                one.session_id,
                f"Session {escape_name(one.session_id)} was complete at {_moment(one.at)}, and after"
                f" {format_duration(span)} there"
                " is no CDR for it.",
                session_id=one.session_id,
            ),
            one.known_at,
        )
        for one in stale_sessions.without_cdr(ledger, kind, at, span)
    ]
    return RuleResult(found, _gone(kind, stale_sessions.with_cdr(ledger, kind)))


class Conflicts:
    """Finds CDRs with the request id of another one. It remembers how far it has come."""

    def __init__(self) -> None:
        self._seen_until: datetime | None = None

    def __call__(self, ledger: Connection, at: datetime) -> RuleResult:
        """Look at what was recorded since the last look."""
        kind = AlertKind.CDR_CONFLICT
        found = stale_sessions.conflicts(ledger, kind, self._seen_until or at - LOOKBACK)
        if not found:  # until then there may be more than one look finds
            self._seen_until = at - RESCAN
        return RuleResult(
            [
                Finding(
                    Alert(
                        kind,
                        one.request_id,
                        f"There are several CDRs with the request id {escape_name(one.request_id)}, and they do not"
                        f" say the"
                        " same.",
                        session_id=one.session_id,
                        delivery_id=one.delivery_id,
                    ),
                    one.recorded_at,
                )
                for one in found
            ]
        )


def unreadable(ledger: Connection, at: datetime) -> RuleResult:
    """Find deliveries that are not understood; one alert for events, and one for CDRs."""
    kind = AlertKind.UNREADABLE
    already_alerted = alert_queries.open_subjects(ledger, kind)
    found = []
    for what, name in ((Kind.EVENTS, "event"), (Kind.CDRS, "CDR")):
        pile = backlogs.unreadable_backlog(
            ledger, what.value, at, alert_queries.last_resolved_at(ledger, kind, what.value)
        )
        if what.value not in already_alerted and pile is not None:
            sentence = f"{_count(pile, name)} cannot be understood: `webhooks deliveries --state unreadable`."
            found.append(_cause(kind, pile, sentence))
    return RuleResult(
        found,
        _gone(kind, [what for what in already_alerted if backlogs.unreadable_backlog(ledger, what, at, None) is None]),
    )


def dead_letters(ledger: Connection, at: datetime) -> RuleResult:  # noqa: ARG001 - rules are called alike
    """Find handlers that have given up runs; one alert for each handler."""
    kind = AlertKind.DEAD_LETTERS
    already_alerted, handlers = alert_queries.open_subjects(ledger, kind), backlogs.handlers_of_dead(ledger)
    found = []
    for handler in handlers:
        pile = (
            None
            if handler in already_alerted
            else backlogs.dead_letter_backlog(ledger, handler, alert_queries.last_resolved_at(ledger, kind, handler))
        )
        if pile is not None:
            whose = "Before any handler" if handler == WHOLE_DELIVERY else f"In the handler {escape_name(handler)}"
            found.append(_cause(kind, pile, f"{whose} {_count(pile, 'run')} failed for good: `webhooks dead`."))
    return RuleResult(found, _gone(kind, already_alerted.difference(handlers)))


def gaps(ledger: Connection, at: datetime, *, shortest: timedelta) -> RuleResult:
    """Find times in which a door was closed for so long that somebody should know; gone when they are covered."""
    kind = AlertKind.GAP
    found, covered = [], []
    for door in recent_traffic.recent_downtimes(ledger, at):
        subject = f"{door.inbox} {door.closed_at:%Y-%m-%dT%H:%M:%S}"
        if door.covered_at is not None:
            covered.append(subject)
        elif door.opened_at - door.closed_at >= shortest:
            sentence = (
                f"The door of inbox {escape_name(door.inbox)} was closed from {_moment(door.closed_at)} to"
                f" {_moment(door.opened_at)}; what Plugsurfing said meanwhile has not been heard."
            )
            found.append(Finding(Alert(kind, subject, sentence), door.noticed_at))
    already_alerted = alert_queries.open_subjects(ledger, kind)
    return RuleResult(
        [one for one in found if one.alert.subject not in already_alerted],
        _gone(kind, already_alerted.intersection(covered)),
    )


def silence(ledger: Connection, at: datetime, *, span: timedelta, busy: int, may_raise: bool) -> RuleResult:
    """Find that no event has come for so long, at a time that was always a busy one; gone with the next event.

    Not after trouble of our own: while a door has not been open for all of the span, nothing is found.
    """
    kind, subject = AlertKind.SILENCE, Kind.EVENTS.value
    last_at = recent_traffic.last_event_at(ledger, at)
    already_alerted = alert_queries.open_subjects(ledger, kind)
    if last_at is not None and last_at > at - span:
        return RuleResult((), _gone(kind, already_alerted))
    if (
        already_alerted
        or not may_raise
        or any(door.opened_at > at - span for door in recent_traffic.recent_downtimes(ledger, at))
    ):
        return RuleResult()
    ends = comparable_windows(recent_traffic.oldest_delivery_at(ledger), at, span)
    fewest = baseline(lambda end: recent_traffic.count_events(ledger, end, span, MOST_EVENTS), ends, busy)
    if fewest is None:
        return RuleResult()
    since = "for a week" if last_at is None else f"since {_moment(last_at)}"
    sentence = (
        f"No event has come {since}. At this time there are otherwise {fewest} or more in {format_duration(span)}."
    )
    return RuleResult([Finding(Alert(kind, subject, sentence), last_at or at - LOOKBACK)])


def _cause(kind: AlertKind, pile: Backlog, sentence: str) -> Finding:
    return Finding(Alert(kind, pile.subject, sentence, delivery_id=pile.last_delivery), pile.last_at)


def _count(pile: Backlog, noun: str) -> str:
    if pile.count == 1:
        return f"1 {noun}"
    return f"{pile.count}{' or more' * (pile.count >= MOST_COUNTED)} {noun}s"


def _gone(kind: AlertKind, subjects: Collection[str]) -> Mapping[AlertKind, Collection[str]]:
    return {kind: subjects} if subjects else {}


def _moment(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M} UTC"
