"""`webhooks handlers`: which plugin handles which event, and which policies decide at the charger."""

import click

from workers.commands import options
from workers.commands.listing import Page, print_rows
from workers.dev.env_file import settings_with_dev_defaults
from workers.lists.handler_list import HANDLERS, POLICIES
from workers.plugins import load_plugins


@click.command()
@options.as_json
def handlers(*, as_json: bool) -> None:
    """List which handler takes which event, on which queue, from which file; and the policies in their order."""
    plugins = load_plugins(settings_with_dev_defaults())
    page = Page(as_json=as_json)
    print_rows(HANDLERS, plugins.subscriptions, page)
    if plugins.policies:
        if not as_json:
            click.echo()
        print_rows(POLICIES, plugins.policies, page)
