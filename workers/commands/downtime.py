"""Lists the gaps: when nothing could come in at a node, as its inbox remembers and as the ledger was told."""

from collections.abc import Iterable
from datetime import datetime

import click

from ingest.config.settings import Settings
from ingest.inbox.downtime import Downtime
from workers.commands import options
from workers.commands.errors import Failure
from workers.commands.output import iso, json_line, table
from workers.commands.stores import open_inbox, read_only_ledger
from workers.ledger.downtimes import DowntimeRow, find


def list_gaps(
    settings: Settings, since: datetime | None, until: datetime | None, *, limit: int | None, as_json: bool
) -> None:
    """List them, newest first: those that ended after `since` and began before `until`."""
    with open_inbox(settings) as outbox:
        here = [] if outbox is None else outbox.gaps()
    rows = [row for row in everywhere(here, in_ledger(settings)) if _is_within(row[0], since, until)][:limit]
    if as_json:
        for gap, told in rows:
            json_line(
                {
                    "inbox": gap.inbox,
                    "closed_at": iso(gap.closed_at),
                    "opened_at": iso(gap.opened_at),
                    "seconds": gap.length.total_seconds(),
                    "covered_at": iso(told.covered_at) if told else None,
                    "sessions_read": told.sessions_read if told else 0,
                }
            )
        return
    if not rows:
        click.echo("No gaps.")
        return
    table(
        ("closed", "opened", "for", "inbox", "read again"),
        [(gap.closed_at, gap.opened_at, gap.length, gap.inbox, _in_words(told)) for gap, told in rows],
    )
    options.warn_if_truncated(len(rows), limit)


def everywhere(here: Iterable[Downtime], told: Iterable[DowntimeRow]) -> list[tuple[Downtime, DowntimeRow | None]]:
    """Put what one inbox remembers beside what the ledger knows of all of them, newest first."""
    known = {Downtime(row.closed_at, row.opened_at, row.inbox): row for row in told}
    return [(gap, known.get(gap)) for gap in sorted({*known, *here}, reverse=True)]


def in_ledger(settings: Settings) -> list[DowntimeRow]:
    """Read the ledger's, if there is a ledger."""
    try:
        with read_only_ledger(settings) as conn:
            return find(conn)
    except Failure:  # none yet: an inbox can do without
        return []


def _is_within(gap: Downtime, since: datetime | None, until: datetime | None) -> bool:
    return (since is None or gap.opened_at >= since) and (until is None or gap.closed_at < until)


def _in_words(told: DowntimeRow | None) -> str:
    if told is None:
        return "not known to the ledger yet"
    if told.covered_at is None:
        return "not yet"
    return f"{told.sessions_read} sessions" + (f", {told.users_failed} users failed" if told.users_failed else "")
