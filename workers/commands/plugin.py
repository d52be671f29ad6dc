"""`webhooks plugin`: write a plugin, try it on what came, and replay samples against all plugins."""

import os
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import partial
from importlib.machinery import PathFinder
from pathlib import Path

import click
from sqlalchemy import Connection, Engine

from handlers.kit.subscriptions import Subscription
from ingest.config.settings import Settings
from ingest.errors import Unreadable
from ingest.events import WIRE_NAMES, decode
from ingest.wire.envelope import Kind
from ingest.wire.timestamps import utc_now
from workers.commands import options
from workers.commands.errors import Failure, UsageFailure
from workers.commands.listing import Page, print_rows
from workers.commands.output import json_line
from workers.commands.plugin_replay import NO_DELIVERY, SAMPLE_RESULTS, constant, delivery_of, replay_samples
from workers.commands.stores import open_ledger
from workers.dev.env_file import settings_with_dev_defaults
from workers.dev.plugin_scaffold import HANDLER_MODULES, SAMPLES, write_plugin
from workers.devices.lookup import Devices
from workers.execution.handler_dry_run import EarlierRun, HandlerDryRun, dry_run_handlers, with_record_of
from workers.ledger import deliveries, push_queries
from workers.ledger.database.engine import chunks, read_only
from workers.ledger.deliveries import DeliveryFilters
from workers.ledger.reader import HandlerReader
from workers.lists.formatting import Json, iso, printable, short_id
from workers.plugins import PluginError, Plugins, load_plugins

CHUNK = 200


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
    if not Path(f"{name}.py").exists() and name in _names_of_handlers():
        raise UsageFailure(f"There is a handler {name} already: choose another name.")
    wire_names = list(dict.fromkeys(each.strip() for each in events.split(",") if each.strip()))
    for path in write_plugin(name, wire_names, Path(), has_table=has_table):
        click.echo(path)
    for unknown in wire_names:
        if unknown not in WIRE_NAMES:
            click.echo(f"\nThis version knows no event {unknown}: {name}.py has a class for it. Is the name right?")
    if HANDLER_MODULES in os.environ:
        click.echo(f"\nThe environment has {HANDLER_MODULES}, which goes before .env: add {name} there.")
    click.echo(
        f"\nNext, while `webhooks dev` runs:\n\n    webhooks send {wire_names[0]} --user driver\n    webhooks pushes"
    )
    click.echo(f"\nIts tests: `webhooks plugin test` and `pytest test_{name}.py`, if pytest is installed.")


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
    plugins, handlers = _find(name.removesuffix(".py"), settings)
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
@click.option("--record", "is_recording", is_flag=True, help="Keep what they do now, to be compared from then on.")
@options.as_json
@click.pass_context
def test(ctx: click.Context, *, samples: Path, is_recording: bool, as_json: bool) -> None:
    """Replay sample events against all plugins, for CI: those of FOLDER, and one of every known name.

    Needs no store: sessions have a driver, and statements run on an empty ledger of their own and are rolled back.
    With --record what the handlers write, push and raise on each sample of FOLDER is written to FOLDER/recorded; later
    runs show how it differs. Exit code 1 for such a difference, if a handler or one of its statements fails, a sample
    cannot be read, or the tables of a plugin are not those that its migrations make.
    """
    if not samples.is_dir() and (samples != SAMPLES or is_recording):
        raise UsageFailure(f"There is no folder {samples} with samples.")
    settings = settings_with_dev_defaults()
    rows = replay_samples(samples, load_plugins(settings), settings, is_recording=is_recording)
    print_rows(SAMPLE_RESULTS, rows, Page(as_json=as_json))
    for row in rows:
        if row.diff and not as_json:
            click.echo(f"\n{printable(row.sample)} is not as it was recorded:")
            for line in row.diff:
                click.secho(f"    {printable(line)}", fg={"+": "green", "-": "red"}.get(line[0]))
    ctx.exit(1 if any(row.failed for row in rows) else 0)


def _names_of_handlers() -> Collection[str]:
    """Return the names that a new handler cannot have; none if a plugin is broken, which others are written beside."""
    try:
        return load_plugins(settings_with_dev_defaults(), renders=False).by_name
    except PluginError:
        return ()


def _find(name: str, settings: Settings) -> tuple[Plugins, list[Subscription]]:
    """Return the handlers of a plugin, which HANDLER_MODULES need not name yet, or the handler of that name."""
    plugins = load_plugins(settings)
    found = _named(name, plugins)
    if not found:
        if PathFinder.find_spec(name.partition(".")[0], [*sys.path, str(Path.cwd())]) is None:
            raise UsageFailure(
                f"There is no plugin {printable(name)}: it is neither installed nor a file in {Path.cwd()}."
            )
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
        delivery = delivery_of(body, utc_now())
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
            clock = partial(constant, delivery.received_at)
            yield from dry_run_handlers(
                handlers, event, delivery, reader=reader, settings=settings, clock=clock, before=before
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
