"""`webhooks handlers`: which plugin handles which event, and which policies decide at the charger."""

import click

from workers.commands import options
from workers.commands.listing import Page, print_rows
from workers.dev.env_file import settings_with_dev_defaults
from workers.lists.handler_list import HANDLERS, POLICIES
from workers.plugins import load_plugins


@click.command()
@options.as_json
@options.as_csv
def handlers(*, as_json: bool, as_csv: bool) -> None:
    """List which handler takes which event, on which queue, from which file; and the policies in their order.

    The policies are not in --csv: their fields are others.
    """
    plugins = load_plugins(settings_with_dev_defaults())
    page = Page(as_json=as_json, as_csv=as_csv)
    print_rows(HANDLERS, plugins.subscriptions, page)
    if plugins.policies and not as_csv:
        if not as_json:
            click.echo()
        print_rows(POLICIES, plugins.policies, page)
