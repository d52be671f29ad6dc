"""Retention: delete what is older than the settings allow, in slices that no batch waits for."""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias

import structlog
from sqlalchemy import Column, ColumnElement, Connection, Engine, Table, and_, delete, func, not_, or_, select, update

from handlers.kit.cdr_table import cdrs
from handlers.kit.plugin_tables import PluginTable
from ingest.config.durations import LONGEST
from ingest.config.settings import Settings
from ingest.wire.timestamps import utc_now
from workers.ledger import charging_key_usage
from workers.ledger.charging_key_usage import IS_OF_ANY
from workers.ledger.database.conditions import Position, in_list
from workers.ledger.database.transaction import read_once, run_in_transaction
from workers.ledger.states import BodyDeletion, DeliveryState, PushState
from workers.ledger.tables.alert_tables import alerts
from workers.ledger.tables.audit_tables import audit
from workers.ledger.tables.authorization_tables import authorizations, session_keys
from workers.ledger.tables.core_tables import deliveries, pushes, receipts, runs, sessions
from workers.ledger.tables.key_tables import charging_key_uses
from workers.ledger.tables.reconciliation_tables import session_polls

log = structlog.get_logger()

SLICE = 500
"""Rows in one transaction: on SQLite a batch waits for it, some ten milliseconds."""

RUN_FOR = timedelta(seconds=20)
"""How long one run of the task may take; it pauses as long as it works."""

FULL_PASS_EVERY = timedelta(days=1)
"""How often it looks again for what was not settled yet when its turn came."""

FREE_PAGES = 10
"""Of so many pages of a SQLite file one may be free: new rows need them soon."""

PAGES_AT_ONCE = 1000

DUPLICATES_MARGIN = timedelta(days=1)
"""A delivery is known to the ledger for longer than to its inbox, which deletes a few old ids an hour."""


#: The keys of rows that were found, before when these are too old, and now.
Deletion: TypeAlias = Callable[[Connection, Sequence[str], datetime, datetime], int]


@dataclass(frozen=True, slots=True)
class RetentionRule:
    """Which rows of a table go when they are old, and what goes with them."""

    kind: str
    setting: str
    """The setting with how long they are kept; empty for a table of a plugin, which says it itself."""
    at: Column[datetime]
    """The time by which they age."""
    key: Column[Any]
    conditions: tuple[ColumnElement[bool], ...]
    delete: Deletion
    """Deletes the rows with these keys; returns how many there were."""


@dataclass(frozen=True, slots=True)
class RetentionPlan:
    """What a rule deletes: rows of a kind that are older than a time, and how many there are now."""

    kind: str
    setting: str
    older_than: datetime
    rows: int


def retention_plans(
    ledger: Connection, settings: Settings, now: datetime, plugin_tables: Iterable[PluginTable] = ()
) -> list[RetentionPlan]:
    """Count what would be deleted now, by rule; those without a limit are left out."""
    plans = []
    for rule, before in due_rules(settings, now, plugin_tables):
        query = select(func.count()).select_from(rule.at.table).where(rule.at < before, *rule.conditions)
        setting = rule.setting.upper() or "keep_for= of its plugin"
        plans.append(RetentionPlan(rule.kind, setting, before, ledger.scalar(query) or 0))
    return plans


def due_rules(
    settings: Settings, now: datetime, plugin_tables: Iterable[PluginTable] = ()
) -> list[tuple[RetentionRule, datetime]]:
    """Return each rule that has a limit, with the time before which rows are deleted; those of plugins are last."""
    spans: dict[str, timedelta] = {rule.setting: getattr(settings, rule.setting) for rule in RULES}
    if spans["retain_deliveries"]:
        # With its row a delivery would lose its body, and be new if the same bytes arrived again.
        least = settings.duplicates_remembered + DUPLICATES_MARGIN
        kept_for = max(spans["retain_deliveries"], spans["retain_bodies"], least)
        spans["retain_deliveries"] = kept_for if spans["retain_bodies"] else timedelta()
    of_plugins = [
        (_rule_of_plugin(each.table, each.at), now - min(each.keep_for, LONGEST))
        for each in plugin_tables
        if each.at is not None and each.keep_for
    ]
    of_sessions = _sessions_rule(now - settings.reconcile_for)
    rules = [of_sessions if rule.kind == of_sessions.kind else rule for rule in RULES]
    return [(rule, now - spans[rule.setting]) for rule in rules if spans[rule.setting]] + of_plugins


def _rule_of_plugin(table: Table, at: Column[datetime]) -> RetentionRule:
    key = next(iter(table.primary_key))

    def delete_rows(ledger: Connection, keys: Sequence[Any], before: datetime, _now: datetime) -> int:
        # Only the whole primary key is unique: of rows that share this part of it, those that are not old stay.
        return ledger.execute(delete(table).where(key.in_(keys), at < before)).rowcount

    return RetentionRule(table.name, "", at, key, (), delete_rows)


class RetentionTask:
    """Deletes what is too old, again and again. Several clocks may run it at once."""

    name = "retention"
    every = timedelta(minutes=1)

    def __init__(
        self,
        engine: Engine,
        settings: Settings,
        plugin_tables: Sequence[PluginTable] = (),
        *,
        now: Callable[[], datetime] = utc_now,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._engine = engine
        self._settings = settings
        self._plugin_tables = plugin_tables
        self._now = now
        self._sleep = sleep
        # Up to where each rule has come: an index of times also has the deliveries whose bodies are deleted.
        self._done: dict[str, Position] = {}
        self._passed_at: datetime | None = None

    def run(self) -> None:
        """Delete for a while. Raises LedgerUnavailable."""
        deleted = self.delete(until=time.monotonic() + RUN_FOR.total_seconds())
        if deleted:
            log.info("retention.deleted", **deleted)

    def delete(self, until: float | None = None) -> Mapping[str, int]:
        """Delete until all is done, or until that monotonic time, and return the number of rows by kind."""
        now, deleted = self._now(), Counter[str]()
        if self._passed_at is None or abs(now - self._passed_at) >= FULL_PASS_EVERY:
            self._done, self._passed_at = {}, now
        for rule, before in due_rules(self._settings, now, self._plugin_tables):
            while until is None or time.monotonic() < until:
                found = self._next_slice(rule, before)
                if found:
                    started = time.monotonic()
                    keys = [key for _, key in found]
                    deleted[rule.kind] += run_in_transaction(self._engine, _deletion(rule, keys, before, now))
                    self._sleep(time.monotonic() - started)
                    self._done[rule.kind] = found[-1]
                if len(found) < SLICE:
                    break
        return_free_pages(self._engine, until, self._sleep)
        return {kind: count for kind, count in deleted.items() if count}

    def _next_slice(self, rule: RetentionRule, before: datetime) -> list[Position]:
        query = select(rule.at, rule.key).where(rule.at < before, *rule.conditions).order_by(rule.at, rule.key)
        after = self._done.get(rule.kind)
        if after is not None:
            query = query.where(rule.at >= after[0], or_(rule.at > after[0], rule.key > after[1]))
        return read_once(self._engine, lambda ledger: [(at, key) for at, key in ledger.execute(query.limit(SLICE))])


def return_free_pages(engine: Engine, until: float | None = None, sleep: Callable[[float], None] = time.sleep) -> None:
    """Return the disk of what was deleted to the system, where the ledger is a SQLite file: some pages at once.

    A file that was made by an older version gives nothing back until it was vacuumed once: `webhooks retain --vacuum`.
    """
    if engine.dialect.name != "sqlite":
        return
    while until is None or time.monotonic() < until:
        started = time.monotonic()
        if run_in_transaction(engine, _free_some_pages) == 0:
            return
        sleep(time.monotonic() - started)


def _free_some_pages(ledger: Connection) -> int:
    """Free some pages of the file if many are unused, and return how many."""
    pages, free, mode = (
        int(ledger.exec_driver_sql(f"PRAGMA {name}").scalar_one())
        for name in ("page_count", "freelist_count", "auto_vacuum")
    )
    is_incremental = mode == 2  # noqa: PLR2004 - https://www.sqlite.org/pragma.html#pragma_auto_vacuum
    if not is_incremental or free * FREE_PAGES <= pages:
        return 0
    connection: Any = ledger.connection.driver_connection
    connection.execute(f"PRAGMA incremental_vacuum({PAGES_AT_ONCE})").fetchall()  # it frees a page a step
    return free - int(ledger.exec_driver_sql("PRAGMA freelist_count").scalar_one())


def _deletion(rule: RetentionRule, keys: Sequence[str], before: datetime, now: datetime) -> Callable[[Connection], int]:
    return lambda ledger: rule.delete(ledger, keys, before, now)


def _delete_from(table: Table, key: Column[str], *conditions: ColumnElement[bool]) -> Deletion:
    def delete_rows(ledger: Connection, keys: Sequence[str], _before: datetime, _now: datetime) -> int:
        return ledger.execute(delete(table).where(in_list(key, keys), *conditions)).rowcount

    return delete_rows


def _delete_bodies(ledger: Connection, keys: Sequence[str], _before: datetime, now: datetime) -> int:
    # Whoever runs it again locks it: then it is open, and needs its body.
    these = update(deliveries).where(in_list(deliveries.c.id, keys), *HAS_OLD_BODY)
    gone = {"body": b"", "headers": {}, "body_deleted_at": now, "body_deletion": BodyDeletion.RETENTION}
    count = ledger.execute(these.values(gone)).rowcount
    # A traceback shows what the handler worked with.
    ledger.execute(
        update(runs).where(in_list(runs.c.delivery_id, keys), runs.c.traceback.is_not(None)).values(traceback=None)
    )
    return count


def _delete_deliveries(ledger: Connection, keys: Sequence[str], _before: datetime, _now: datetime) -> int:
    locked = select(deliveries.c.id).where(in_list(deliveries.c.id, keys), *IS_OVER).with_for_update()
    ids = list(ledger.scalars(locked))
    for column in (pushes.c.delivery_id, runs.c.delivery_id, receipts.c.delivery_id, deliveries.c.id):
        ledger.execute(delete(column.table).where(in_list(column, ids)))
    return len(ids)


def _delete_charging_keys(ledger: Connection, found: Sequence[str], before: datetime, _now: datetime) -> int:
    # One that was asked for since it was found stays, with the counts of its decisions.
    keys = charging_key_usage.lock(
        ledger, in_list(charging_key_uses.c.key, found), charging_key_uses.c.last_at < before
    )
    ledger.execute(delete(charging_key_uses).where(in_list(charging_key_uses.c.key, keys)))
    return len(keys)


def _sessions_rule(polled_since: datetime) -> RetentionRule:
    """Return the rule of sessions, of which those stay that are polled at the Drive API: their records say whose it is.

    Polls that were scheduled before then are over, whatever their rows say: without DRIVE_API_KEY nobody ends them.
    """
    is_open = and_(session_polls.c.next_at.is_not(None), session_polls.c.enrolled_at > polled_since)
    is_polled_no_more = sessions.c.session_id.not_in(select(session_polls.c.session_id).where(is_open))

    def delete_sessions(ledger: Connection, found: Sequence[str], before: datetime, _now: datetime) -> int:
        # One that has had news since it was found stays.
        is_old = (in_list(sessions.c.session_id, found), sessions.c.updated_at < before, is_polled_no_more)
        old = select(sessions.c.session_id).where(*is_old)
        keys = list(ledger.scalars(old.order_by(sessions.c.session_id).with_for_update()))
        ledger.execute(delete(session_polls).where(in_list(session_polls.c.session_id, keys), not_(is_open)))
        ledger.execute(delete(session_keys).where(in_list(session_keys.c.session_id, keys)))
        return ledger.execute(delete(sessions).where(in_list(sessions.c.session_id, keys))).rowcount

    at, key = sessions.c.updated_at, sessions.c.session_id
    return RetentionRule("sessions", "retain_sessions", at, key, (is_polled_no_more,), delete_sessions)


IS_SETTLED = deliveries.c.settled_at.is_not(None)
# A dead letter keeps its body until a person has run it again, or RETAIN_DELIVERIES deletes it as a whole.
HAS_OLD_BODY = (IS_SETTLED, deliveries.c.body_deleted_at.is_(None), deliveries.c.state != DeliveryState.DEAD)
# A push that is still to be sent keeps its delivery.
IS_OVER = (
    IS_SETTLED,
    deliveries.c.id.not_in(select(pushes.c.delivery_id).where(pushes.c.due_at.is_not(None))),
)
HAS_ENDED = pushes.c.state != PushState.WAITING
IS_RESOLVED = alerts.c.resolved_at.is_not(None)

RULES = (
    RetentionRule("bodies", "retain_bodies", deliveries.c.received_at, deliveries.c.id, HAS_OLD_BODY, _delete_bodies),
    RetentionRule(
        "pushes",
        "retain_pushes",
        pushes.c.created_at,
        pushes.c.id,
        (HAS_ENDED,),
        _delete_from(pushes, pushes.c.id, HAS_ENDED),
    ),
    RetentionRule(
        "deliveries", "retain_deliveries", deliveries.c.received_at, deliveries.c.id, IS_OVER, _delete_deliveries
    ),
    _sessions_rule(datetime.min.replace(tzinfo=UTC)),
    RetentionRule(
        "authorizations",
        "retain_authorizations",
        authorizations.c.at,
        authorizations.c.id,
        (),
        _delete_from(authorizations, authorizations.c.id),
    ),
    RetentionRule(
        "charging_keys",
        "retain_authorizations",
        charging_key_uses.c.last_at,
        charging_key_uses.c.key,
        (IS_OF_ANY,),
        _delete_charging_keys,
    ),
    RetentionRule(
        "alerts",
        "retain_alerts",
        alerts.c.resolved_at,
        alerts.c.id,
        (IS_RESOLVED,),
        _delete_from(alerts, alerts.c.id, IS_RESOLVED),
    ),
    RetentionRule("audit", "retain_audit", audit.c.at, audit.c.id, (), _delete_from(audit, audit.c.id)),
    RetentionRule(
        "cdrs", "retain_cdrs", cdrs.c.received_at, cdrs.c.delivery_id, (), _delete_from(cdrs, cdrs.c.delivery_id)
    ),
)
"""In this order: a push belongs to a run, and a run to a delivery."""
