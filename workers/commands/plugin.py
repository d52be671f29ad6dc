"""`webhooks plugin`: write a plugin, try it on what came, and replay samples against all plugins."""

import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import partial
from operator import itemgetter
from pathlib import Path

import click
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from handlers.kit.plugin_tables import PluginTables
from handlers.kit.subscriptions import Subscription
from ingest.config.settings import Settings
from ingest.errors import Unreadable, WebhooksError
from ingest.events import CHARGING_RECORD, WIRE_NAMES, ChargingRecord, decode, peek
from ingest.queue.batch import Delivery
from ingest.simulator.scenarios import UNKNOWN_EVENT, Participants, make_event
from ingest.wire.envelope import Kind
from ingest.wire.timestamps import utc_now
from workers.commands import options
from workers.commands.errors import Failure, UsageFailure
from workers.commands.listing import Page, print_rows
from workers.commands.output import json_line
from workers.commands.stores import open_ledger
from workers.dev.env_file import settings_with_dev_defaults
from workers.dev.plugin_scaffold import SAMPLE_AT, SAMPLES, write_plugin
from workers.devices.lookup import Devices
from workers.execution.handler_dry_run import EarlierRun, HandlerDryRun, dry_run_handlers, with_record_of
from workers.ledger import deliveries, push_queries
from workers.ledger.database.engine import chunks, create_ledger_engine, read_only
from workers.ledger.database.migrate import migrate
from workers.ledger.database.migrate_plugins import differences_from_migrations, migrate_plugin
from workers.ledger.deliveries import DeliveryFilters
from workers.ledger.reader import HandlerReader
from workers.lists.formatting import Json, iso, printable, short_id
from workers.lists.listing import Listing
from workers.plugins import Plugins, load_plugins

CHUNK = 200
NO_DELIVERY = "0" * 32
"""The id of an event that is in no ledger."""


@click.group()
def plugin() -> None:
    """Write a plugin, try it on what came, and replay samples against all plugins."""


@plugin.command()
@click.argument("name")
@click.option("--on", "events", required=True, metavar="EVENT[,EVENT]", help="The events that it handles.")
@click.option("--table", "has_table", is_flag=True, help="With a table of its own, and its first migration.")
def new(name: str, *, events: str, has_table: bool) -> None:
    """Write a plugin NAME with settings, a test and sample events into this folder, and name it in .env.

    A running `webhooks dev` loads it at once, and migrates its table; elsewhere `webhooks migrate` does. An EVENT that
    this version does not know becomes a class of its own.
    """
    wire_names = list(dict.fromkeys(each.strip() for each in events.split(",") if each.strip()))
    for path in write_plugin(name, wire_names, Path(), has_table=has_table):
        click.echo(path)
    sent = wire_names[0]
    click.echo(f"\nNow: webhooks dev, webhooks send {sent} --user driver, webhooks pushes; pytest test_{name}.py")


@plugin.command("try")
@click.argument("name")
@click.option("--delivery", "ids", multiple=True, metavar="ID", help="On this delivery; may be repeated.")
@click.option(
    "--event",
    "files",
    multiple=True,
    type=click.Path(path_type=Path, exists=True),
    metavar="FILE",
    help="On this body.",
)
@options.since_option(help="On all deliveries since then: 10m, 2h or 3d ago, today, yesterday, 18:00, ISO 8601.")
@options.as_json
@click.pass_context
def try_plugin(  # noqa: PLR0913  the options are the interface
    ctx: click.Context,
    name: str,
    ids: tuple[str, ...],
    files: tuple[Path, ...],
    since: datetime | None,
    *,
    as_json: bool,
) -> None:
    """Show what the handlers of the plugin NAME would write, push and raise, and how that differs from what they did.

    Nothing is committed or sent; but what a handler does beside `ctx`, such as a request of its own, is really done.
    `ctx.now()` is when the delivery was received; sessions are read as they are now. FILE has the body of an event.
    Exit code 1 if a handler fails.
    """
    if sum(map(bool, (ids, files, since))) != 1:
        raise click.UsageError("Choose one of --delivery, --event and --since.")
    settings = settings_with_dev_defaults()
    plugins, handlers = _find(name, settings)
    with open_ledger(settings) as engine:
        reader = HandlerReader(engine, Devices(engine, plugins.devices, settings.devices_per_user))
        if files:
            tries = _try_files(files, handlers, plugins, reader, settings)
        else:
            with read_only(engine) as conn:
                chosen = deliveries.find_ids(conn, DeliveryFilters(since=since)) if since else _resolve(conn, ids)
            tries = _try_deliveries(chosen, handlers, engine, reader, settings)
        failed = _print(tries, as_json=as_json)
    ctx.exit(1 if failed else 0)


@plugin.command()
@click.option("--samples", type=click.Path(path_type=Path), default=SAMPLES, show_default=True, metavar="FOLDER")
@options.as_json
@click.pass_context
def test(ctx: click.Context, *, samples: Path, as_json: bool) -> None:
    """Replay sample events against all plugins, for CI: those of FOLDER, and one of every known name.

    Needs no store: sessions have a driver, and statements run on an empty ledger of their own and are rolled back.
    Exit code 1 if a handler or one of its statements fails, a sample cannot be read, or the tables of a plugin are not
    those that its migrations make.
    """
    settings = settings_with_dev_defaults()
    plugins = load_plugins(settings)
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/ledger.db"
        migrate(url)
        engine = create_ledger_engine(url)
        try:
            rows = [_test_migrations(each, engine, url) for each in plugins.tables]
            reader = HandlerReader(engine, Devices(engine, None, 1))
            replay = partial(_test, plugins=plugins, reader=reader, settings=settings)
            rows += [row for sample in _samples(samples, plugins) for row in replay(*sample)]
        finally:
            engine.dispose()
    print_rows(SAMPLE_RESULTS, rows, Page(as_json=as_json))
    ctx.exit(1 if any(row["failed"] for row in rows) else 0)


def _find(name: str, settings: Settings) -> tuple[Plugins, list[Subscription]]:
    """Return the handlers of a plugin, which HANDLER_MODULES need not name yet, or the handler of that name."""
    plugins = load_plugins(settings)
    found = _named(name, plugins)
    if not found:
        modules = (*settings.handler_modules, name)
        plugins = load_plugins(settings.model_copy(update={"handler_modules": modules}))
        found = _named(name, plugins)
    if not found:
        raise UsageFailure(f"The plugin {printable(name)} has no handler; see `webhooks handlers`.")
    return plugins, found


def _named(name: str, plugins: Plugins) -> list[Subscription]:
    of_plugin = [each for each in plugins.by_name.values() if name in {each.plugin, each.plugin.rpartition(".")[2]}]
    found = of_plugin or [each for each in plugins.by_name.values() if each.name == name]
    return [each for each in found if not each.records]


def _resolve(conn: Connection, ids: Sequence[str]) -> list[str]:
    found = {prefix: deliveries.resolve_id(conn, prefix) for prefix in ids}
    unknown = ", ".join(printable(prefix) for prefix, full in found.items() if full is None)
    if unknown:
        raise Failure(f"The ledger knows no delivery, or more than one, with an id that begins with: {unknown}.")
    return [full for full in found.values() if full is not None]


def _try_files(
    files: Iterable[Path], handlers: Sequence[Subscription], plugins: Plugins, reader: HandlerReader, settings: Settings
) -> Iterator[HandlerDryRun]:
    for file in files:
        body = file.read_bytes()
        delivery = _delivery(body)
        try:
            event = decode(Kind(delivery.kind), body)
        except Unreadable as error:
            raise Failure(f"{file}: {error}") from error
        records = [each for each in plugins.subscriptions if each.records]
        yield from dry_run_handlers(
            handlers, event, delivery, reader=with_record_of(event, records, reader), settings=settings, clock=utc_now
        )


def _try_deliveries(
    ids: Sequence[str], handlers: Sequence[Subscription], engine: Engine, reader: HandlerReader, settings: Settings
) -> Iterator[HandlerDryRun]:
    for some in chunks(ids, CHUNK):
        with read_only(engine) as conn:
            came = deliveries.fetch(conn, some)
            runs = {row.id: row.runs for row in deliveries.get_many(conn, some)}
            pushes = push_queries.of_deliveries(conn, some)
        for delivery in came:
            try:
                event = decode(Kind(delivery.kind), delivery.body or b"")
            except Unreadable:
                continue
            before = {
                run.handler: EarlierRun(
                    run,
                    tuple(each for each in pushes if (each.delivery_id, each.handler) == (delivery.id, run.handler)),
                )
                for run in runs.get(delivery.id, ())
            }
            clock = partial(_constant, delivery.received_at)
            yield from dry_run_handlers(
                handlers, event, delivery, reader=reader, settings=settings, clock=clock, before=before
            )


def _constant(at: datetime) -> datetime:
    return at


def _delivery(body: bytes) -> Delivery:
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
        received_at=utc_now(),
        signed_with="none",
        signed_at=None,
        headers={},
        body=body,
        receipts=1,
        inbox="none",
    )


def _print(tries: Iterable[HandlerDryRun], *, as_json: bool) -> bool:
    """Print each run as soon as it is made; return whether one failed."""
    has_any = has_failed = False
    for each in tries:
        has_any, has_failed = True, has_failed or each.has_failed
        if as_json:
            json_line(_row(each))
        else:
            _print_run(each)
    if not has_any and not as_json:
        click.echo("None: it handles none of these events.")
    return has_failed


def _row(each: HandlerDryRun) -> Mapping[str, Json]:
    result = each.result
    return {
        "delivery": None if each.delivery.id == NO_DELIVERY else each.delivery.id,
        "event": each.event.name,
        "session_id": each.event.session_id,
        "handler": result.handler,
        "outcome": result.outcome.value,
        "reason": result.reason,
        "error": result.error,
        "pushes": [
            {
                "user_id": push.user_id,
                "title": push.title,
                "body": push.body,
                "collapse_key": push.collapse_key,
                "session_id": push.session_id,
                "expires_at": iso(push.expires_at),
            }
            for push in result.writes.pushes
        ],
        "writes": list(each.statements),
        "before": None if each.before is None or each.before.run is None else each.before.run.outcome.value,
        "diff": list(each.differences),
    }


def _print_run(each: HandlerDryRun) -> None:
    result = each.result
    place = "" if each.delivery.id == NO_DELIVERY else f"{short_id(each.delivery.id)}  "
    reason = f": {printable(result.reason)}" if result.reason else ""
    click.echo(f"{place}{printable(each.event.name)}  {result.handler}  {result.outcome.value}{reason}")
    for push in result.writes.pushes:
        click.echo(f"    push   {printable(push.user_id)}  {printable(push.title)} | {printable(push.body)}")
    for statement in each.statements:
        click.echo(f"    write  {printable(statement)}")
    if result.stack:
        click.echo(click.style("".join(f"    {line}\n" for line in result.stack.splitlines()), fg="red"), nl=False)
    for line in each.differences:
        click.echo(f"    diff   {printable(line)}")


SAMPLE_RESULTS = Listing[dict[str, Json]](
    fields={name: itemgetter(name) for name in ("sample", "event", "handler", "outcome", "reason", "failed")},
    columns={
        "sample": lambda row: str(row["sample"]),
        "handler": lambda row: str(row["handler"] or "-"),
        "outcome": lambda row: f"{'✗ ' if row['failed'] else ''}{row['outcome']}",
        "reason": lambda row: str(row["reason"] or ""),
    },
    order="first",
)


def _samples(folder: Path, plugins: Plugins) -> Iterator[tuple[str, bytes]]:
    """Yield recorded samples by the names of their files, then one of every name that is known."""
    for file in sorted(folder.glob("*.json")):
        yield str(file), file.read_bytes()
    of_plugins = {each.model.wire_name: each.sample for each in plugins.event_types}
    for name in (*WIRE_NAMES, *of_plugins, UNKNOWN_EVENT, CHARGING_RECORD):
        yield name, make_event(name, Participants("S", "driver"), SAMPLE_AT, of_plugins.get(name, {})).body


def _test_migrations(tables: PluginTables, engine: Engine, url: str) -> dict[str, Json]:
    """Migrate the tables of a plugin, and compare them with its code."""
    row: dict[str, Json] = {"sample": str(tables.migrations), "event": None, "handler": None}
    try:
        migrate_plugin(url, tables)
        with engine.connect() as conn:
            different = differences_from_migrations(conn, tables)
    except WebhooksError as error:
        return {**row, "outcome": "failed", "reason": str(error), "failed": True}
    outcome = "different" if different else "migrated"
    return {**row, "outcome": outcome, "reason": "; ".join(different) or None, "failed": bool(different)}


def _test(
    sample: str, body: bytes, plugins: Plugins, reader: HandlerReader, settings: Settings
) -> Iterator[dict[str, Json]]:
    delivery = _delivery(body)
    row: dict[str, Json] = {"sample": sample, "event": delivery.event, "handler": None, "reason": None, "failed": False}
    try:
        event = decode(Kind(delivery.kind), body)
    except Unreadable as error:
        yield {**row, "outcome": "unreadable", "reason": str(error), "failed": True}
        return
    records = [each for each in plugins.subscriptions if each.records]
    started = make_event("SESSION_STARTED", Participants(event.session_id or "S", "driver"), SAMPLE_AT)
    known = with_record_of(decode(Kind.EVENTS, started.body), records, reader)
    known = with_record_of(event, records, known)
    at = SAMPLE_AT if isinstance(event, ChargingRecord) else getattr(event, "at", SAMPLE_AT)
    tries = dry_run_handlers(
        plugins.subscriptions, event, delivery, reader=known, settings=settings, clock=partial(_constant, at)
    )
    for each in tries:
        problem = each.result.error or _write_error(each, reader.engine)
        yield {
            **row,
            "handler": each.result.handler,
            "outcome": each.result.outcome.value,
            "reason": (problem or each.result.reason or "").partition("\n")[0] or None,
            "failed": problem is not None,
        }
    if not tries:
        yield {**row, "outcome": "ignored"}


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
