"""The process types, each imported only when it runs since `serve` needs no database, and what deploys them."""
# ruff: noqa: PLC0415  the imports stand where they are needed, see above

import logging
import sys
from pathlib import Path
from typing import BinaryIO

import click

from ingest.config.sections.logging import LoggingSettings
from ingest.config.sections.processing import ProcessingSettings, StoreSettings
from ingest.config.settings import DASHBOARD_SECTIONS, SERVE_SECTIONS, load_settings
from ingest.log import configure_logging
from ingest.wire.authorization.request import WireFormat
from workers.commands import options

HIGHEST_PORT = 65_530


@click.command()
@click.option("--demo", is_flag=True, help="Play one charging session and print its record and timeline.")
@click.option("--exit", "ends", is_flag=True, help="End after the demo: 0 only if everything arrived.")
@click.option(
    "--port",
    type=click.IntRange(1, HIGHEST_PORT),
    help="Serve on this port, authorize on the next, the dashboard on the one after.  [default: 8000]",
)
@click.pass_context
def dev(ctx: click.Context, *, demo: bool, ends: bool, port: int | None) -> None:
    """Run all process types in this terminal, and a Valkey unless REDIS_URL is set.

    Signing keys that are not set are made up. Ctrl-C loses nothing: what was kept is worked on the next time.
    """
    if ends and not demo:
        raise click.UsageError("--exit needs --demo.")
    from workers.commands.session import show_session
    from workers.dev.dev import dev

    ctx.exit(dev(port, show_session if demo else None, ends=ends))


@click.command()
@click.option(
    "--workers",
    type=click.IntRange(min=0),
    metavar="N",
    help="Serve with N processes, replaced one by one on SIGHUP while the socket stays open. Default: SERVE_WORKERS.",
)
def serve(*, workers: int | None) -> None:
    """Receive events and charging records over HTTP, keep them on disk, and publish them to Redis.

    Needs neither Redis nor the database to keep an event. Listens on HOST and PORT, or on the socket that systemd
    passes. Without --workers SIGHUP ends it, as SIGTERM does.
    """
    settings = load_settings(*SERVE_SECTIONS)
    count = settings.serve_workers if workers is None else workers
    if count:
        from ingest.server.serve import serve_with_workers

        raise SystemExit(serve_with_workers(settings, count))
    from ingest.server.serve import serve

    serve(settings)


@click.command()
@click.option("--try", "body", type=click.File("rb"), metavar="FILE", help="Serve nothing; - is standard input.")
@click.option(
    "--form", type=click.Choice([form.value for form in WireFormat]), help="The wire format.  [default: plugsurfing]"
)
@click.option("--uid", metavar="KEY", help="The key, which OCPI has in the path.")
@options.as_json
@click.pass_context
def authorize(ctx: click.Context, *, body: BinaryIO | None, form: str | None, uid: str | None, as_json: bool) -> None:
    """Answer authorization requests: may this key charge? Asks the policies of all plugins, in their order.

    Needs AUTHORIZE_CREDENTIALS. Listens on HOST and AUTHORIZE_PORT.

    With --try, ask the policies about the body in FILE, and print what each says and what would be answered. Needs no
    credentials and no Redis, and a ledger only if the policies do. Exit code 1 if a policy fails.
    """
    if body is None:
        if form or uid or as_json:
            raise click.UsageError("--form, --uid and --json go with --try.")
        from workers.policies.serve_authorize import authorize

        authorize(load_settings())
        return
    chosen = WireFormat(form or WireFormat.PLUGSURFING)
    if (chosen is WireFormat.OCPI) is not (uid is not None):
        raise click.UsageError("--uid and --form ocpi go together.")
    from workers.commands.authorize_dry_run import one_shot_contexts, print_dry_run
    from workers.dev.env_file import settings_with_dev_defaults
    from workers.plugins import load_plugins
    from workers.policies.dry_run import dry_run

    settings = settings_with_dev_defaults()
    contexts, missing = one_shot_contexts(settings)
    policies = load_plugins(settings).policies
    tried = dry_run(chosen, uid, body.read(), settings=settings, policies=policies, contexts=contexts)
    print_dry_run(tried, settings, missing, as_json=as_json)
    ctx.exit(1 if tried.record.failure else 0)


@click.command()
@click.argument("queues", metavar="[QUEUE]...", nargs=-1)
@click.option("--burst", is_flag=True, help="End when the queues are empty.")
@click.option("--reload", is_flag=True, help="Start again when a plugin, a template or .env changes.")
@click.option("--traceback", is_flag=True, help="Print where a plugin fails to load, not only the sentence.")
@click.pass_context
def work(ctx: click.Context, queues: tuple[str, ...], *, burst: bool, reload: bool, traceback: bool) -> None:
    """Run handlers on the batches of the queues: urgent, sessions, cdrs, other, background.

    Without QUEUE three processes share them, so that no slow handler delays a warning: one for what is urgent, one for
    all events, one for slow handlers, retries and replays. With QUEUE it is one; the first queue goes before all
    others, which take turns.
    """
    if reload:
        if burst:
            raise click.UsageError("--burst and --reload exclude each other.")
        from workers.dev.plugin_reload import work_with_reload

        ctx.exit(work_with_reload(load_settings(), queues))
    from workers.commands.output import print_traceback
    from workers.execution.worker import work
    from workers.plugins import PluginError

    try:
        work(load_settings(), queues, burst=burst)
    except PluginError as error:
        if traceback and error.__cause__ is not None:
            print_traceback(error.__cause__)
        raise


@click.command()
def clock() -> None:
    """Enqueue runs that are due or were lost; send pushes that wait. One is enough, several do no harm."""
    from workers.clock.clock import clock

    clock(load_settings())


@click.command()
def dashboard() -> None:
    """Show the console in a browser, and rq-dashboard at /rq/, on HOST and DASHBOARD_PORT."""
    from workers.commands.check.processes import check_now
    from workers.console.console_server import serve_console

    serve_console(load_settings(*DASHBOARD_SECTIONS), checks=check_now)


@click.command()
@click.option("--dry-run", is_flag=True, help="List the migrations that are still to run; change nothing.")
@click.pass_context
def migrate(ctx: click.Context, *, dry_run: bool) -> None:
    """Migrate the database to this version's tables, and to those of the plugins.

    Run it before the other processes of a new version, or of a new plugin. Processes of the version before go on
    meanwhile. If it is killed, run it again; several wait for each other. Exit code 1 if a migration fails, or if
    tables are newer and cannot be used.
    """
    from ingest.errors import WebhooksError
    from workers.commands.errors import Failure, error_text
    from workers.ledger.database.migrate import Migration, migrate, pending_migrations
    from workers.ledger.database.migrate_plugins import describe_plugin, migrate_and_describe_plugin
    from workers.ledger.database.schema_state import SENTENCES, SchemaState, schema_state
    from workers.plugins import load_plugins

    def report(migration: Migration) -> None:
        click.echo(f"{migration.number}  {migration.summary}")

    settings = load_settings(StoreSettings, ProcessingSettings, LoggingSettings)
    url = settings.database_url
    if dry_run:
        for migration in pending_migrations(url):
            report(migration)
        found = schema_state(url)
    else:
        configure_logging(settings, "migrate")
        logging.getLogger("alembic").setLevel(logging.WARNING)  # it would repeat each line
        found = migrate(url, report=report)
    if found is SchemaState.INCOMPATIBLE:
        raise Failure(SENTENCES[found])
    has_migrated = found is SchemaState.PENDING and not dry_run
    click.echo("The database now has this version's tables." if has_migrated else SENTENCES[found])
    plugins = load_plugins(settings).tables  # not before: a plugin that fails must not keep our tables back
    failed = False
    for tables in plugins:
        try:
            click.echo(describe_plugin(url, tables) if dry_run else migrate_and_describe_plugin(url, tables))
        except WebhooksError as error:  # those of the others can be migrated all the same
            click.echo(f"webhooks: {error_text(error)}", err=True)
            failed = True
    ctx.exit(1 if failed else 0)


@click.command()
@click.option("--into", type=click.Path(path_type=Path, file_okay=False), help="Write them to this folder.")
@click.option("--user", default="webhooks", show_default=True, help="The user that the processes run as.")
@click.option(
    "--folder",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    default=Path(),
    help="The folder of `.env` and your plugins. Default: here.",
)
def systemd(*, into: Path | None, user: str, folder: Path) -> None:
    """Print the units for a machine with systemd: `serve` and `authorize` with their sockets, workers, the clock.

    `webhooks systemd --into /etc/systemd/system`, then `systemctl daemon-reload` and
    `systemctl enable --now webhooks-serve.socket webhooks-serve webhooks-work@1 webhooks-clock`.
    """
    from workers.systemd.render import render_units

    settings = load_settings()
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    values = {
        "webhooks": str(Path(sys.executable).with_name("webhooks")),
        "user": user,
        "folder": str(folder.absolute()),
        "address": f"{host}:{settings.port}",
        "authorize_address": f"{host}:{settings.authorize_port}",
    }
    for name, text in render_units(values).items():
        if into is None:
            click.echo(f"# {name}\n{text}")
        else:
            into.mkdir(parents=True, exist_ok=True)
            (into / name).write_text(text, "utf-8")
            click.echo(f"{into / name}")


@click.command()
@click.argument("process", type=click.Choice(["authorize", "devices", "dashboard"]))
def openapi(process: str) -> None:
    """Print the OpenAPI document of `authorize` or `devices serve`, as they serve it, or of the dashboard's /api/."""
    if process == "dashboard":
        import json

        from workers.console.api import openapi_document

        click.echo(json.dumps(openapi_document(), indent=2))
        return
    if process == "authorize":
        from ingest.authorize.authorize_app import OPENAPI
    else:
        from workers.devices.devices_app import OPENAPI
    click.echo(OPENAPI.read_text("utf-8"), nl=False)
