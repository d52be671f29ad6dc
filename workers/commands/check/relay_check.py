"""Checks that each relay publishes what is in its inbox, and since when the oldest delivery waits for that."""

import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from ingest.config.settings import Settings
from ingest.queue.process_monitor import find_absences
from ingest.queue.process_registry import ProcessRecord, ProcessType
from workers.alerts.process_conditions import STALLED_BY_DEFAULT
from workers.commands.check.check_result import CheckResult, fail, ok, warn
from workers.commands.errors import error_text
from workers.commands.stores import open_inbox

SUBJECT = "relay"
START = "Start `webhooks serve`; if it runs, its log says why (`relay.failed`, `relay.waiting`)."
START_REDIS = "Start Redis, or correct REDIS_URL: what waits is then published by itself."


@dataclass(frozen=True)
class _Waiting:
    """What waits in one inbox."""

    inbox_id: str
    count: int | None
    since: datetime | None

    @property
    def text(self) -> str:
        if self.count is None:
            return "how many deliveries wait is not known"
        return _waiting_text(self.count) + (f", the oldest since {_time(self.since)}" if self.since else "")


def check_relays(
    settings: Settings, processes: Sequence[ProcessRecord] | None, *, is_redis_away: bool
) -> Iterator[CheckResult]:
    """Yield a line for all relays that publish, and one for each that does not.

    Without Redis or the ledger there are no `processes`: then only the inbox in our data folder can be seen.
    """
    try:
        with open_inbox(settings) as outbox:
            own = None
            if outbox is not None:
                own = _Waiting(outbox.inbox_id, outbox.waiting_count(), outbox.waiting_since())
    except (sqlite3.Error, OSError) as error:
        yield warn(SUBJECT, f"What waits in {settings.data_dir} cannot be read. {error_text(error)}")
        return
    if processes is not None:
        yield from _by_reports(own, [each for each in processes if each.process is ProcessType.SERVE])
    elif is_redis_away or settings.redis_url is None:
        # The line of Redis fails in any case.
        is_urgent = own is not None and own.count
        sentence = f"Nothing can be published without Redis: {_own_text(own)}. {START_REDIS}"
        yield (fail if is_urgent else warn)(SUBJECT, sentence)
    else:
        problem = "Whether it publishes is not known while the ledger, which names its queues, is not there"
        yield warn(SUBJECT, f"{problem}: {_own_text(own)}.")


def _by_reports(own: _Waiting | None, reports: Sequence[ProcessRecord]) -> Iterator[CheckResult]:
    alive = {each.id: each for each in reports if each.is_alive}
    waiting = {id_: _of_report(each) for id_, each in alive.items()}
    if own is not None:
        waiting |= {own.inbox_id: own} if own.inbox_id in alive else {}
    late = {id_ for id_, each in waiting.items() if _is_late(each)}
    if well := waiting.keys() - late:
        hosts = ", ".join(sorted({alive[id_].host for id_ in well}))
        counts = [waiting[id_].count for id_ in well]
        known = [count for count in counts if count is not None]
        is_known = len(known) == len(counts)
        text = _waiting_text(sum(known)) if is_known else "nothing is known of how many deliveries wait"
        yield ok(SUBJECT, f"It publishes on {hosts}; {text}.")
    for id_ in sorted(late):
        yield warn(
            SUBJECT,
            f"It publishes on {alive[id_].host}, but {waiting[id_].text}: the workers do not keep up. Start more"
            " of them; `webhooks check --deep` says what waits for what.",
        )
    gone = list(_not_publishing(own, reports))
    yield from gone
    if not waiting and not gone:
        yield warn(SUBJECT, f"None has reported itself lately, and there is no inbox here. {START}")


def _not_publishing(own: _Waiting | None, reports: Sequence[ProcessRecord]) -> Iterator[CheckResult]:
    last = {each.id: each for each in reports if not each.is_alive}
    if own is not None and own.inbox_id not in {each.id for each in reports if each.is_alive}:
        report = last.pop(own.inbox_id, None)
        since = "No `serve` has reported that it publishes" if report is None else _ended_text(report)
        yield (fail if own.count else warn)(SUBJECT, f"{since}: {own.text}. {START}")
    # One that has ended by itself, or was replaced, is not missed.
    missed = {each.subject for each in find_absences(reports) if each.process is ProcessType.SERVE}
    for id_, report in last.items():
        if id_ in missed:
            yield fail(SUBJECT, f"{_ended_text(report)}: when it did, {_of_report(report).text}. {START}")


def _of_report(report: ProcessRecord) -> _Waiting:
    node = report.node
    if node is None:
        return _Waiting(report.id, None, None)
    age = node.oldest_waiting
    since = None if age is None else datetime.now(UTC) - timedelta(seconds=age + max(0.0, report.age))
    return _Waiting(report.id, node.waiting, since)


def _is_late(waiting: _Waiting) -> bool:
    return waiting.since is not None and datetime.now(UTC) - waiting.since > STALLED_BY_DEFAULT


def _ended_text(report: ProcessRecord) -> str:
    at = _time(report.last_beat_at)
    if report.is_stopped:
        return f"`serve` on {report.host} ended at {at}"
    return f"`serve` on {report.host} has not published since {at}"


def _own_text(own: _Waiting | None) -> str:
    return "what waits in the inboxes of other hosts cannot be seen" if own is None else own.text


def _waiting_text(count: int) -> str:
    if not count:
        return "nothing waits in the inbox"
    return "1 delivery waits in the inbox" if count == 1 else f"{count:,} deliveries wait in the inbox"


def _time(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S} UTC"
