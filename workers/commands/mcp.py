"""`webhooks mcp`: what the console lists as tools for agents that look after the system."""

from importlib.util import find_spec

import click

from workers.commands.audit import audit_entry, record_act
from workers.commands.errors import UsageFailure
from workers.commands.stores import open_ledger
from workers.console.page_stores import Opener
from workers.dev.env_file import settings_with_dev_defaults
from workers.ledger.audit_log import AuditAct


@click.command()
@click.option("--reveal", is_flag=True, help="Show user ids and bodies; that is recorded, see `webhooks audit`.")
def mcp(*, reveal: bool) -> None:
    """Serve read-only tools for agents by the Model Context Protocol, on stdin and stdout.

    User ids are masked, and bodies left out, without --reveal.
    """
    if find_spec("mcp") is None:
        raise UsageFailure("This needs the extra [mcp]: pip install 'plugsurfing-webhooks[mcp]'.")
    from workers.commands.mcp_server import create_server  # noqa: PLC0415  the extra may not be installed

    settings = settings_with_dev_defaults()
    with open_ledger(settings) as engine:
        if reveal:
            with engine.begin() as ledger:
                record_act(ledger, audit_entry(AuditAct.BODY_VIEWED, "mcp"))
        create_server(settings, Opener(settings, engine), reveal=reveal).run("stdio")
