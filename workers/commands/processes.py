"""The commands that are a process type each, and their homes imported only when they run: `serve` needs no database."""
# ruff: noqa: PLC0415  the imports stand where they are needed, see above

import click


@click.command()
@click.option(
    "--workers",
    type=click.IntRange(min=0),
    metavar="N",
    help="Serve with N processes, replaced one by one on SIGHUP while the socket stays open. Default: SERVE_WORKERS.",
)
def serve(*, workers: int | None) -> None:
    """Take events and charging records in over HTTP, keep them, and bring them to Redis.

    Needs neither Redis nor the database to keep an event. Listens on HOST and PORT, or on what systemd hands over.
    Without --workers SIGHUP ends it, as SIGTERM does.
    """
    from ingest.config.settings import load_settings

    settings = load_settings()
    count = settings.serve_workers if workers is None else workers
    if count:
        from ingest.server.listening import serve_with_workers

        raise SystemExit(serve_with_workers(settings, count))
    from ingest.server.serve import serve

    serve(settings)


@click.command()
@click.argument("queues", metavar="[QUEUE]...", nargs=-1)
@click.option("--burst", is_flag=True, help="End when the queues are empty.")
def work(queues: tuple[str, ...], *, burst: bool) -> None:
    """Take deliveries off the queues and run handlers.

    Serves the first queue before all others, which take turns: urgent, sessions, cdrs, other, unless said otherwise.
    """
    from ingest.config.settings import load_settings
    from workers.execution.worker import work

    work(load_settings(), queues, burst=burst)


@click.command()
def clock() -> None:
    """Put what is due, and what was lost, on its queue; send pushes that wait. One is enough, several do no harm."""
    from ingest.config.settings import load_settings
    from workers.clock.clock import clock

    clock(load_settings())


@click.command()
def dashboard() -> None:
    """Show queues, workers and failed jobs in a browser (rq-dashboard), on HOST and DASHBOARD_PORT."""
    from ingest.config.settings import load_settings
    from workers.dashboard.app import dashboard

    dashboard(load_settings())


@click.command()
def migrate() -> None:
    """Bring the tables of the database to this version. To be run before the other processes of a new version."""
    from ingest.config.settings import load_settings
    from workers.ledger.database.migrate import migrate, pending

    url = load_settings().database_url
    if pending(url):
        migrate(url)
        click.echo("The database now has this version's tables.")
    else:
        click.echo("The database has this version's tables already.")
