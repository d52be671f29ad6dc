"""`webhooks cdrs`: the charging detail records, their totals, and which contradict each other."""

import sys
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import TypeVar

import click

from handlers.kit.key_identifiers import search_spellings
from ingest.config.settings import Settings
from workers.commands import options
from workers.commands.listing import Page, print_rows
from workers.commands.stores import read_only_ledger
from workers.dev.env_file import settings_with_dev_defaults
from workers.ledger import cdr_queries as ledger_cdrs
from workers.ledger.cdr_queries import CdrFilters
from workers.ledger.cdr_stats import CdrSummary, summarize
from workers.lists.cdr_list import CDRS, MISSING, SIDE_BY_SIDE, TOTALS
from workers.lists.formatting import pluralize, printable
from workers.lists.listing import Listing

Row = TypeVar("Row")

TO_STDOUT = "-"
FIRST_COUNTS = "Of those in conflict the one that was received first counts: webhooks cdrs --conflicts"


@click.command()
@click.option("--session", "session_id", metavar="ID", help="The charging session they are about.")
@options.user
@click.option("--request-id", metavar="ID", help="Plugsurfing's id of the request; the CDR's own id if it has none.")
@click.option("--key", metavar="KEY", help="The charging key, in any of its spellings.")
@click.option(
    "--conflicts", "in_conflict", is_flag=True, help="Only those that another one with their request id contradicts."
)
@click.option("--repeated", is_flag=True, help="Only those that came more than once, with their repeats.")
@options.since
@options.until
@options.limit
@click.option("--totals", "only_totals", is_flag=True, help="Only the totals, in each currency.")
@click.option("--missing", is_flag=True, help="Instead of CDRs, the sessions that are complete and have none.")
@click.option("--csv", "csv_to", metavar="FILE", help="Write them as CSV to a file, or to stdout as -.")
@options.as_json
def cdrs(  # noqa: PLR0913  the options are the interface
    *,
    session_id: str | None,
    user_id: str | None,
    request_id: str | None,
    key: str | None,
    in_conflict: bool,
    repeated: bool,
    since: datetime | None,
    until: datetime | None,
    limit: int | None,
    only_totals: bool,
    missing: bool,
    csv_to: str | None,
    as_json: bool,
) -> None:
    """List charging detail records, newest first, and the totals of all that match, to the last digit.

    One that says the same as an earlier one with its request id is a repeat, whatever else differs: it is counted, but
    listed only with --repeated and --request-id. If it differs in a field that is read, both are in conflict: both are
    listed, and until a person decides the one that was received first is in the totals.
    """
    if csv_to is not None and (as_json or only_totals):
        raise click.UsageError("Choose --csv, or --json and --totals.")
    settings = settings_with_dev_defaults()
    if missing:
        if session_id or user_id or request_id or key or in_conflict or repeated or only_totals:
            raise click.UsageError("--missing goes with --since and --until only.")
        _print_missing(settings, since, until, Page.of(limit, as_json=as_json, as_csv=csv_to is not None), csv_to)
        return
    filters = CdrFilters(
        session_id=session_id,
        user_id=user_id,
        request_id=request_id,
        keys=None if key is None else search_spellings(key, settings.authorize_key_bytes),
        since=since,
        until=until,
        in_conflict=in_conflict,
        repeated=repeated,
        with_repeats=repeated or request_id is not None,
    )
    page = Page.of(limit, as_json=as_json, as_csv=csv_to is not None)
    with read_only_ledger(settings) as conn:
        if csv_to is not None:
            _export(csv_to, ledger_cdrs.find(conn, filters, page.limit), CDRS, "CDR")
            return
        if not only_totals:
            listing = SIDE_BY_SIDE if in_conflict or repeated else CDRS
            print_rows(listing, ledger_cdrs.find(conn, filters, page.limit), page)
            if as_json:
                return
            click.echo()
        summary = summarize(conn, filters)
        # An unreadable CDR matches no filter but time: nothing in it is known.
        is_filtered = bool(session_id or user_id or request_id or key or in_conflict or repeated)
        unreadable = 0 if is_filtered else ledger_cdrs.unreadable(conn, since, until)
    if as_json:
        print_rows(TOTALS, summary.totals, page)
    else:
        _print_summary(summary, unreadable)


def _print_summary(summary: CdrSummary, unreadable: int) -> None:
    facts = [pluralize(summary.cdrs, "CDR")]
    if summary.repeated:
        facts.append(f"{summary.repeated:,} came again, {pluralize(summary.repeats, 'time')} in all")
    if summary.in_conflict:
        over = pluralize(summary.request_ids_in_conflict, "request id")
        facts.append(f"{summary.in_conflict:,} in conflict over {over}")
    if summary.sharing_session:
        facts.append(f"{summary.sharing_session:,} with the session of another one")
    if summary.without_request_id:
        facts.append(f"{summary.without_request_id:,} without a request id (CDR_REQUEST_ID)")
    click.echo("; ".join(facts))
    if unreadable:
        click.echo(f"{unreadable:,} more could not be read: webhooks deliveries --state unreadable")
    if summary.totals:
        click.echo()
        print_rows(TOTALS, summary.totals, Page())
    if summary.in_conflict:
        click.echo(FIRST_COUNTS)


def _print_missing(
    settings: Settings, since: datetime | None, until: datetime | None, page: Page, csv_to: str | None
) -> None:
    with read_only_ledger(settings) as conn:
        found = ledger_cdrs.sessions_without_cdr(conn, since=since, until=until, limit=page.limit)
    if csv_to is None:
        print_rows(MISSING, found, page)
    else:
        _export(csv_to, found, MISSING, "session")


def _export(csv_to: str, rows: Iterable[Row], listing: Listing[Row], thing: str) -> None:
    if csv_to == TO_STDOUT:
        listing.write_csv(sys.stdout, rows)
        return
    with Path(csv_to).open("w", encoding="utf-8", newline="") as file:
        count = listing.write_csv(file, rows)
    click.echo(f"{pluralize(count, thing)} written to {printable(csv_to)}.", err=True)
