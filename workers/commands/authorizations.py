"""`webhooks authorizations`: the decisions at the charger."""

from datetime import datetime

import click

from handlers.kit.key_identifiers import search_spellings
from ingest.wire.authorization.request import Allowed
from workers.commands import options
from workers.commands.listing import Page, paged, print_rows
from workers.commands.stores import read_only_ledger
from workers.dev.env_file import settings_with_dev_defaults
from workers.ledger import authorizations as ledger_authorizations
from workers.ledger.authorizations import DecisionFilter
from workers.lists.authorization_list import DECISIONS


@click.command()
@click.option("--decision", type=click.Choice([each.value for each in Allowed]), help="Only those with this answer.")
@click.option("--policy", metavar="NAME", help="Only those that this policy decided, or failed to.")
@click.option("--key", metavar="KEY", help="The charging key, in any of its spellings.")
@click.option("--session", "session_id", metavar="ID", help="The charging session that it was about.")
@options.since
@options.until
@paged
def authorizations(  # noqa: PLR0913  the options are the interface
    *,
    decision: str | None,
    policy: str | None,
    key: str | None,
    session_id: str | None,
    since: datetime | None,
    until: datetime | None,
    page: Page,
) -> None:
    """List what was decided at the charger, and why; newest first."""
    settings = settings_with_dev_defaults()
    keys = None if key is None else search_spellings(key, settings.authorize_key_bytes)
    wanted = DecisionFilter(since, until, decision, policy, keys, session_id)
    with read_only_ledger(settings) as conn:
        print_rows(DECISIONS, ledger_authorizations.find(conn, wanted, page.limit), page)
