"""Lists the gaps: when nothing could come in at a node, as its inbox remembers."""

from datetime import datetime

import click

from ingest.settings import Settings
from workers.commands import options
from workers.commands.output import iso, json_line, table
from workers.commands.stores import inbox_of


def list_gaps(
    settings: Settings, since: datetime | None, until: datetime | None, *, limit: int | None, as_json: bool
) -> None:
    """List them, newest first: those that ended after `since` and began before `until`."""
    with inbox_of(settings) as outbox:
        known = [] if outbox is None else outbox.gaps()
    found = [
        gap
        for gap in reversed(known)
        if (since is None or gap.opened_at >= since) and (until is None or gap.closed_at < until)
    ][:limit]
    if as_json:
        for gap in found:
            json_line(
                {
                    "inbox": gap.inbox,
                    "closed_at": iso(gap.closed_at),
                    "opened_at": iso(gap.opened_at),
                    "seconds": gap.length.total_seconds(),
                }
            )
        return
    if not found:
        click.echo("No gaps.")
        return
    table(
        ("closed", "opened", "for", "inbox"), [(gap.closed_at, gap.opened_at, gap.length, gap.inbox) for gap in found]
    )
    options.say_if_cut(len(found), limit)
