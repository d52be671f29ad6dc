"""`webhooks pushes`: what was sent, or is to be sent, to drivers."""

from datetime import datetime

import click

from workers.commands import options
from workers.commands.listing import Listing, Page, attributes, paged
from workers.commands.stores import read_only_ledger
from workers.dev.env_file import settings_with_dev_defaults
from workers.ledger import pushes as ledger_pushes
from workers.ledger.pushes import PushRow
from workers.ledger.states import PushState

PUSHES = Listing[PushRow](
    fields=attributes(
        *("id", "session_id", "user_id", "channel", "state", "title", "body", "expires_at", "sent_at", "attempts")
    ),
    columns={
        "made": lambda push: push.created_at,
        "session": "session_id",
        "user": "user_id",
        "channel": "channel",
        "state": "state",
        "text": lambda push: f"{push.title}: {push.body}" + (f" ({push.error})" if push.error else ""),
    },
)


@click.command()
@click.option("--state", type=click.Choice([state.value for state in PushState]), help="Only those in this state.")
@click.option("--session", "session_id", metavar="ID", help="The charging session that it is about.")
@options.user
@options.since
@options.until
@paged
def pushes(  # noqa: PLR0913  the options are the interface
    *,
    state: str | None,
    session_id: str | None,
    user_id: str | None,
    since: datetime | None,
    until: datetime | None,
    page: Page,
) -> None:
    """List what was sent, or is to be sent, to drivers; newest first."""
    wanted = PushState(state) if state else None
    with read_only_ledger(settings_with_dev_defaults()) as conn:
        PUSHES.print(
            ledger_pushes.find(
                conn,
                session_id=session_id,
                person=user_id,
                state=wanted,
                since=since,
                until=until,
                limit=page.limit,
            ),
            page,
        )
