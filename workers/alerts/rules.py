"""The alert rules: each reads the ledger, and returns what an alert is to be raised for and which are resolved."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import takewhile

from sqlalchemy import Connection

from handlers.kit.cdr_table import CONTRADICTIONS
from ingest.config.durations import format_duration
from ingest.wire.envelope import Kind
from workers.alerts.alerts import Alert, AlertKind, escape_name
from workers.ledger import alert_queries
from workers.ledger.alert_queries import LOOKBACK, MAX_COUNTED, Backlog, OddCdr, StaleSession
from workers.ledger.states import WHOLE_DELIVERY

RESCAN = timedelta(minutes=10)
"""How far an evaluation goes back behind the one before: a transaction may have been open for that long."""
MOST_EVENTS = 10_000
"""Events of a window that are counted; more is just as busy."""
WEEKS = 3
DAYS = 7


@dataclass(frozen=True, slots=True)
class Finding:
    """An alert that is to be raised, and since when its cause exists."""

    alert: Alert
    since: datetime


@dataclass(frozen=True, slots=True)
class RuleResult:
    """The findings of a rule, and by kind the subjects of open alerts whose causes are gone."""

    findings: Sequence[Finding] = ()
    resolved: Mapping[AlertKind, Collection[str]] = field(default_factory=dict)


def open_sessions(ledger: Connection, at: datetime, *, span: timedelta) -> RuleResult:
    """Find sessions that have been open for longer than the span."""
    kind = AlertKind.SESSION_OPEN
    found = [
        _session_finding(
            kind,
            one,
            f"started at {_time(one.at)}, and after {format_duration(span)} it is still {escape_name(one.status)}.",
        )
        for one in alert_queries.long_running_sessions(ledger, kind, at, span)
    ]
    return RuleResult(found, _resolved(kind, alert_queries.ended_sessions(ledger, kind)))


def missing_cdrs(ledger: Connection, at: datetime, *, span: timedelta) -> RuleResult:
    """Find complete sessions that have had no CDR for longer than the span."""
    kind = AlertKind.CDR_MISSING
    found = [
        _session_finding(
            kind, one, f"was complete at {_time(one.at)}, and after {format_duration(span)} there is no CDR for it."
        )
        for one in alert_queries.sessions_without_cdr(ledger, kind, at, span)
    ]
    return RuleResult(found, _resolved(kind, alert_queries.sessions_with_cdr(ledger, kind)))


class OddCdrs:
    """Finds CDRs that need a person by one query. It remembers how far it has come."""

    def __init__(
        self,
        kind: AlertKind,
        find: Callable[[Connection, str, datetime], list[OddCdr]],
        sentence: Callable[[OddCdr], str],
        find_settled: Callable[[Connection, str], list[str]],
    ) -> None:
        self._kind = kind
        self._find = find
        self._sentence = sentence
        self._find_settled = find_settled
        self._checked_until: datetime | None = None

    def __call__(self, ledger: Connection, at: datetime) -> RuleResult:
        """Check what was recorded since the last call."""
        found = self._find(ledger, self._kind, self._checked_until or at - LOOKBACK)
        if not found:  # until then there may be more than one query returns
            self._checked_until = at - RESCAN
        findings = [
            Finding(
                Alert(
                    self._kind,
                    one.subject,
                    self._sentence(one),
                    session_id=one.session_id,
                    delivery_id=one.delivery_id,
                ),
                one.recorded_at,
            )
            for one in found
        ]
        return RuleResult(findings, _resolved(self._kind, self._find_settled(ledger, self._kind)))


def cdr_rules() -> list[OddCdrs]:
    """Return the rules about CDRs that come and are odd."""
    conflict, implausible = AlertKind.CDR_CONFLICT, AlertKind.CDR_IMPLAUSIBLE
    queries = alert_queries
    return [
        OddCdrs(conflict, queries.cdr_conflicts, _conflict_sentence, queries.settled_cdr_conflicts),
        OddCdrs(implausible, queries.implausible_cdrs, _implausible_sentence, queries.settled_implausible_cdrs),
    ]


def _conflict_sentence(one: OddCdr) -> str:
    return (
        f"There are several CDRs with the request id {escape_name(one.identity)}, and they do not say the same; the one"
        " that was received first counts: `webhooks cdrs --conflicts`."
    )


def _implausible_sentence(one: OddCdr) -> str:
    if one.subject == f"session {one.session_id}":
        return (
            f"Session {escape_name(str(one.session_id))} has several CDRs with different request ids, and all of them"
            " count: `webhooks cdrs --session ID`."
        )
    contradictions = ", ".join(note for note in one.notes if note in CONTRADICTIONS)
    return (
        f"CDR {escape_name(one.subject)}: {contradictions}. It is counted as it came:"
        f" `webhooks show {one.delivery_id}`, and ask Plugsurfing."
    )


def unreadable(ledger: Connection, at: datetime) -> RuleResult:
    """Find deliveries that cannot be parsed: one alert for events, and one for CDRs."""
    kind = AlertKind.UNREADABLE
    already_alerted = alert_queries.open_subjects(ledger, kind)
    found = []
    for subject, name in ((Kind.EVENTS.value, "event"), (Kind.CDRS.value, "CDR")):
        since = alert_queries.last_resolved_at(ledger, kind, subject)
        backlog = alert_queries.unreadable_backlog(ledger, subject, at, since)
        if subject not in already_alerted and backlog is not None:
            sentence = f"{_count(backlog, name)} cannot be understood: `webhooks deliveries --state unreadable`."
            found.append(_backlog_finding(kind, backlog, sentence))
    gone = [each for each in already_alerted if alert_queries.unreadable_backlog(ledger, each, at, None) is None]
    return RuleResult(found, _resolved(kind, gone))


def dead_letters(ledger: Connection, at: datetime) -> RuleResult:  # noqa: ARG001 - all rules are called alike
    """Find handlers that have given up runs: one alert for each handler."""
    kind = AlertKind.DEAD_LETTERS
    already_alerted, handlers = alert_queries.open_subjects(ledger, kind), alert_queries.handlers_of_dead(ledger)
    found = []
    for handler in handlers:
        if handler in already_alerted:
            continue
        since = alert_queries.last_resolved_at(ledger, kind, handler)
        backlog = alert_queries.dead_letter_backlog(ledger, handler, since)
        if backlog is not None:
            where = "Before any handler" if handler == WHOLE_DELIVERY else f"In the handler {escape_name(handler)}"
            sentence = f"{where} {_count(backlog, 'run')} failed for good: `webhooks dead`."
            found.append(_backlog_finding(kind, backlog, sentence))
    return RuleResult(found, _resolved(kind, already_alerted.difference(handlers)))


def downtime(ledger: Connection, at: datetime, *, shortest: timedelta) -> RuleResult:
    """Find downtimes of at least so long; resolved when they are covered."""
    kind = AlertKind.GAP
    found, covered = [], []
    for one in alert_queries.recent_downtimes(ledger, at):
        subject = f"{one.inbox} {one.closed_at:%Y-%m-%dT%H:%M:%S}"
        if one.covered_at is not None:
            covered.append(subject)
        elif one.opened_at - one.closed_at >= shortest:
            sentence = (
                f"The inbox {escape_name(one.inbox)} accepted nothing from {_time(one.closed_at)} to"
                f" {_time(one.opened_at)}; what Plugsurfing sent meanwhile was not received."
            )
            found.append(Finding(Alert(kind, subject, sentence), one.noticed_at))
    already_alerted = alert_queries.open_subjects(ledger, kind)
    return RuleResult(
        [one for one in found if one.alert.subject not in already_alerted],
        _resolved(kind, already_alerted.intersection(covered)),
    )


def silence(ledger: Connection, at: datetime, *, span: timedelta, busy: int, may_raise: bool) -> RuleResult:
    """Find that no event has come for so long, at a time that was always busy; resolved with the next event.

    Nothing is found after trouble of our own: within a span in which a downtime ended.
    """
    kind, subject = AlertKind.SILENCE, Kind.EVENTS.value
    last_at = alert_queries.last_event_at(ledger, at)
    already_alerted = alert_queries.open_subjects(ledger, kind)
    if last_at is not None and last_at > at - span:
        return RuleResult((), _resolved(kind, already_alerted))
    if (
        already_alerted
        or not may_raise
        or any(one.opened_at > at - span for one in alert_queries.recent_downtimes(ledger, at))
    ):
        return RuleResult()
    ends = comparable_windows(alert_queries.oldest_delivery_at(ledger), at, span)
    fewest = baseline(lambda end: alert_queries.count_events(ledger, end, span, MOST_EVENTS), ends, busy)
    if fewest is None:
        return RuleResult()
    since = "for a week" if last_at is None else f"since {_time(last_at)}"
    sentence = (
        f"No event has come {since}. At this time there are otherwise {fewest} or more in {format_duration(span)}."
    )
    return RuleResult([Finding(Alert(kind, subject, sentence), last_at or at - LOOKBACK)])


def comparable_windows(known_since: datetime | None, now: datetime, span: timedelta) -> list[datetime]:
    """Return the ends of past windows to compare this one with; none if the ledger is too young.

    They are at the same time of the same weekday, in each of the last three weeks. In a younger ledger they are at the
    same time of each of the last seven days.
    """
    for count, step in ((WEEKS, timedelta(weeks=1)), (DAYS, timedelta(days=1))):
        if known_since is not None and known_since <= now - count * step - span:
            return [now - number * step for number in range(1, count + 1)]
    return []


def baseline(count: Callable[[datetime], int], ends: list[datetime], busy: int) -> int | None:
    """Return the number of events in the quietest of these windows; None unless every one of them was busy."""
    found = list(takewhile(lambda events: events >= busy, map(count, ends)))
    return min(found, default=None) if len(found) == len(ends) else None


def _session_finding(kind: AlertKind, one: StaleSession, predicate: str) -> Finding:
    sentence = f"Session {escape_name(one.session_id)} {predicate}"
    return Finding(Alert(kind, one.session_id, sentence, session_id=one.session_id), one.known_at)


def _backlog_finding(kind: AlertKind, backlog: Backlog, sentence: str) -> Finding:
    return Finding(Alert(kind, backlog.subject, sentence, delivery_id=backlog.last_delivery), backlog.last_at)


def _count(backlog: Backlog, noun: str) -> str:
    if backlog.count == 1:
        return f"1 {noun}"
    return f"{backlog.count}{' or more' * (backlog.count >= MAX_COUNTED)} {noun}s"


def _resolved(kind: AlertKind, subjects: Collection[str]) -> Mapping[AlertKind, Collection[str]]:
    return {kind: subjects} if subjects else {}


def _time(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M} UTC"
