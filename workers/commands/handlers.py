"""`webhooks handlers`: which plugin handles which event, and which policies decide at the charger."""

from collections.abc import Iterator

import click

from ingest.config.settings import Settings
from workers.commands import options
from workers.commands.listing import Page, print_rows
from workers.dev.env_file import settings_with_dev_defaults
from workers.lists.formatting import printable
from workers.lists.handler_list import HANDLERS, POLICIES, HandlerRow, handler_rows
from workers.plugins import Plugins, load_plugins


@click.command()
@options.as_json
@options.as_csv
def handlers(*, as_json: bool, as_csv: bool) -> None:
    """List which handler takes which event, on which queue, from which file; and the policies in their order.

    The policies are not in --csv: their fields are others. The workers that run now and have not loaded the handlers
    as they are follow on stderr, for people.
    """
    settings = settings_with_dev_defaults()
    plugins = load_plugins(settings)
    page = Page(as_json=as_json, as_csv=as_csv)
    print_rows(HANDLERS, _rows(settings, plugins), page)
    if plugins.policies and not as_csv:
        if not as_json:
            click.echo()
        print_rows(POLICIES, plugins.policies, page)
    if not (as_json or as_csv) and settings.redis_url is not None:
        for sentence in _outdated_workers(settings, plugins):
            click.secho(sentence, err=True, fg="yellow")


def _rows(settings: Settings, plugins: Plugins) -> list[HandlerRow]:
    """Return the handlers, with how they did if there is a ledger and Redis answers."""
    from workers.commands.errors import Failure  # noqa: PLC0415  it takes long, and is for this list only
    from workers.commands.stores import open_ledger  # noqa: PLC0415  as above

    try:
        with open_ledger(settings) as engine:
            return handler_rows(settings, engine, plugins)
    except Failure:
        return handler_rows(settings, None, plugins)


def _outdated_workers(settings: Settings, plugins: Plugins) -> Iterator[str]:
    """Yield a sentence for each worker whose handlers are others; none if Redis or the ledger does not answer."""
    from redis.exceptions import RedisError  # noqa: PLC0415  it takes long, and is for this list only
    from sqlalchemy.exc import SQLAlchemyError  # noqa: PLC0415  as above

    from ingest.errors import WebhooksError  # noqa: PLC0415  as above
    from ingest.queue.process_registry import ProcessRegistry, ProcessType  # noqa: PLC0415  as above
    from workers.commands.errors import Failure  # noqa: PLC0415  as above
    from workers.commands.stores import open_ledger  # noqa: PLC0415  as above
    from workers.installation import open_queues  # noqa: PLC0415  as above

    try:
        with open_ledger(settings) as engine, open_queues(settings, engine) as connection:
            processes = ProcessRegistry(connection).processes()
    except (RedisError, SQLAlchemyError, WebhooksError, Failure):
        return
    for each in processes:
        if each.process is not ProcessType.WORK or not each.is_alive:
            continue
        missing = [wanted.name for wanted in plugins.subscriptions if wanted.name not in each.handlers]
        differences = [f"has not loaded {', '.join(missing)}"] if missing else []
        differences += [f"has older versions of {', '.join(map(printable, each.outdated))}"] if each.outdated else []
        if differences:
            yield f"The worker {printable(each.id)} {' and '.join(differences)}: start it again."
