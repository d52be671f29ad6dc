"""Replays sample events against all plugins, and compares what they do with what was recorded, and with migrations."""

import json
import tempfile
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from handlers.kit.plugin_tables import PluginTables
from ingest.config.settings import Settings
from ingest.errors import Unreadable, WebhooksError
from ingest.events import CHARGING_RECORD, WIRE_NAMES, ChargingRecord, decode, peek
from ingest.queue.batch import Delivery
from ingest.simulator.scenarios import UNKNOWN_EVENT, Participants, make_event
from ingest.wire.envelope import Kind
from workers.dev.plugin_scaffold import SAMPLE_AT
from workers.devices.lookup import Devices
from workers.execution import plugin_outcomes
from workers.execution.handler_dry_run import HandlerDryRun, dry_run_handlers, with_record_of
from workers.ledger.database.engine import create_ledger_engine
from workers.ledger.database.migrate import migrate
from workers.ledger.database.migrate_plugins import differences_from_migrations, migrate_plugin
from workers.ledger.reader import HandlerReader
from workers.lists.listing import Listing, attributes
from workers.plugins import Plugins

NO_DELIVERY = "0" * 32
"""The id of an event that is in no ledger."""


@dataclass(frozen=True)
class SampleResult:
    """What one handler did with a sample, or what is to be said of the sample as a whole."""

    sample: str
    outcome: str
    event: str | None = None
    handler: str | None = None
    reason: str | None = None
    failed: bool = False
    diff: tuple[str, ...] = ()
    """How it differs from what was recorded, a line each."""


SAMPLE_RESULTS = Listing[SampleResult](
    fields=attributes("sample", "event", "handler", "outcome", "reason", "failed", "diff"),
    columns={
        "sample": "sample",
        "handler": lambda row: row.handler or "-",
        "outcome": lambda row: f"{'✗ ' if row.failed else ''}{row.outcome}",
        "reason": lambda row: row.reason or "",
    },
    order="first",
)


def replay_samples(
    folder: Path, plugins: Plugins, settings: Settings, *, is_recording: bool = False
) -> list[SampleResult]:
    """Replay the samples in a folder, and one event of every name, on an empty ledger that is deleted afterwards."""
    with tempfile.TemporaryDirectory() as ledger_folder:
        url = f"sqlite:///{ledger_folder}/ledger.db"
        migrate(url)
        engine = create_ledger_engine(url)
        try:
            results = [_test_migrations(each, engine, url) for each in plugins.tables]
            replay = SampleReplay(plugins, HandlerReader(engine, Devices(engine, None, 1)), settings)
            for file in sorted(folder.glob("*.json")):
                results += replay.replay_file(file, is_recording=is_recording)
            of_plugins = {each.model.wire_name: each.sample for each in plugins.event_types}
            for name in (*WIRE_NAMES, *of_plugins, UNKNOWN_EVENT, CHARGING_RECORD):
                body = make_event(name, Participants("S", "driver"), SAMPLE_AT, of_plugins.get(name, {})).body
                results += replay.replay(name, body)[0]
        finally:
            engine.dispose()
    return results


@dataclass(frozen=True)
class SampleReplay:
    """Calls the handlers of all plugins on samples."""

    plugins: Plugins
    reader: HandlerReader
    settings: Settings

    def replay_file(self, file: Path, *, is_recording: bool) -> list[SampleResult]:
        """Replay a file, then record what came of it, or compare it with what was recorded."""
        sample = str(file)
        results, runs = self.replay(sample, file.read_bytes())
        if runs is None:
            return results
        outcomes = plugin_outcomes.outcomes_of(runs)
        if is_recording:
            return [*results, SampleResult(sample, "recorded", reason=str(plugin_outcomes.record(file, outcomes)))]
        diff = tuple(plugin_outcomes.differences(file, outcomes))
        if diff:
            reason = "--record keeps it as it is now"
            results.append(SampleResult(sample, "not as recorded", reason=reason, failed=True, diff=diff))
        return results

    def replay(self, sample: str, body: bytes) -> tuple[list[SampleResult], list[HandlerDryRun] | None]:
        """Return what each handler does with an event; no runs if it cannot be read."""
        result = SampleResult(sample, "ignored", delivery_of(body, SAMPLE_AT).event)
        try:
            runs = self.call(body)
        except Unreadable as error:
            return [replace(result, outcome="unreadable", reason=str(error), failed=True)], None
        problems = [each.result.error or _write_error(each, self.reader.engine) for each in runs]
        results = [
            replace(
                result,
                handler=each.result.handler,
                outcome=each.result.outcome.value,
                reason=(problem or each.result.reason or "").partition("\n")[0] or None,
                failed=problem is not None,
            )
            for each, problem in zip(runs, problems, strict=True)
        ]
        return results or [result], runs

    def call(self, body: bytes) -> list[HandlerDryRun]:
        """Call the handlers of an event whose session has a driver. Raise Unreadable."""
        delivery = delivery_of(body, SAMPLE_AT)
        event = decode(Kind(delivery.kind), body)
        records = [each for each in self.plugins.subscriptions if each.records]
        started = make_event("SESSION_STARTED", Participants(event.session_id or "S", "driver"), SAMPLE_AT)
        known = with_record_of(decode(Kind.EVENTS, started.body), records, self.reader)
        known = with_record_of(event, records, known)
        at = SAMPLE_AT if isinstance(event, ChargingRecord) else getattr(event, "at", SAMPLE_AT)
        clock = partial(constant, at)
        handlers = self.plugins.subscriptions
        return dry_run_handlers(handlers, event, delivery, reader=known, settings=self.settings, clock=clock)


def constant(at: datetime) -> datetime:
    """Return the time: a clock that stands."""
    return at


def delivery_of(body: bytes, received_at: datetime) -> Delivery:
    """Return a delivery of a body that is in no ledger."""
    try:
        document = json.loads(body)
    except ValueError:
        document = None
    kind = Kind.EVENTS if isinstance(document, dict) and isinstance(document.get("event"), str) else Kind.CDRS
    seen = peek(kind, body)
    return Delivery(
        id=NO_DELIVERY,
        kind=kind,
        event=seen.name or CHARGING_RECORD,
        session_id=seen.session_id,
        received_at=received_at,
        signed_with="none",
        signed_at=None,
        headers={},
        body=body,
        receipts=1,
        inbox="none",
    )


def _test_migrations(tables: PluginTables, engine: Engine, url: str) -> SampleResult:
    """Migrate the tables of a plugin, and compare them with its code."""
    sample = str(tables.migrations)
    try:
        migrate_plugin(url, tables)
        with engine.connect() as conn:
            different = differences_from_migrations(conn, tables)
    except WebhooksError as error:
        return SampleResult(sample, "failed", reason=str(error), failed=True)
    outcome = "different" if different else "migrated"
    return SampleResult(sample, outcome, reason="; ".join(different) or None, failed=bool(different))


def _write_error(each: HandlerDryRun, engine: Engine) -> str | None:
    """Execute what a handler wrote, roll it back, and return what failed."""
    with engine.connect() as conn, conn.begin() as transaction:
        try:
            for deferred in each.result.writes.written:
                conn.execute(deferred.statement, dict(deferred.values or {}))
        except SQLAlchemyError as error:
            return f"{type(error).__name__}: {getattr(error, 'orig', None) or error}".splitlines()[0]
        finally:
            transaction.rollback()
    return None
