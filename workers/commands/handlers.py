"""`webhooks handlers`: which plugin handles which event, and which policies decide at the charger."""

from pathlib import Path

import click

from handlers.kit.policies import Policy
from handlers.kit.subscriptions import Subscription
from workers.commands import options
from workers.commands.listing import Listing, Page, attributes
from workers.dev.env_file import settings_with_dev_defaults
from workers.plugins import load_plugins


@click.command()
@options.as_json
def handlers(*, as_json: bool) -> None:
    """List which handler takes which event, on which queue, from which file; and the policies in their order."""
    plugins = load_plugins(settings_with_dev_defaults())
    page = Page(as_json=as_json)
    HANDLERS.print(plugins.subscriptions, page)
    if plugins.policies:
        if not as_json:
            click.echo()
        POLICIES.print(plugins.policies, page)


def _events(each: Subscription) -> list[str]:
    return [event.wire_name or event.__name__ for event in each.events]


def _relative(file: str) -> str:
    path = Path(file)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else file


HANDLERS = Listing[Subscription](
    fields={
        **attributes(handler="name"),
        "events": _events,
        **attributes("queue", "records", "plugin", "file"),
    },
    columns={
        "handler": "handler",
        "events": lambda each: " ".join(_events(each)),
        "queue": lambda each: "before all handlers" if each.records else each.queue or "with its batch",
        "file": lambda each: _relative(each.file),
    },
    order="first",
)
POLICIES = Listing[Policy](
    fields=attributes(policy="name", order="order", plugin="plugin", file="file"),
    columns={
        "policy at the charger": "policy",
        "order": "order",
        "file": lambda each: _relative(each.file),
    },
    order="first",
)
