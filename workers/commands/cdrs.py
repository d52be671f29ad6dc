"""`webhooks cdrs`: the charging records, what they come to, and which contradict each other."""

import sys
from collections.abc import Iterator, Sequence
from datetime import datetime
from decimal import Decimal
from pathlib import Path

import click
from rich.text import Text

from handlers.kit.key_identifiers import search_spellings
from workers.commands import options
from workers.commands.csv_export import write_csv
from workers.commands.output import Cell, Json, iso, json_line, printable, short_id, table
from workers.commands.stores import read_only_ledger
from workers.dev.env_file import settings_with_dev_defaults
from workers.ledger import cdr_queries as ledger_cdrs
from workers.ledger.cdr_queries import CdrFilters, CdrRow, CdrSummary, CurrencyTotal

TO_STDOUT = "-"


@click.command()
@click.option("--session", "session_id", metavar="ID", help="The charging session they are about.")
@click.option("--user", "user_id", metavar="ID", help="The driver, whom the CDR names or its session does.")
@click.option("--request-id", metavar="ID", help="Plugsurfing's id of the request; the CDR's own id if it has none.")
@click.option("--key", metavar="KEY", help="The charging key, however it is spelt.")
@click.option("--conflicts", "in_conflict", is_flag=True, help="Only those whose request id another one has, too.")
@click.option("--repeated", is_flag=True, help="Only those that came more than once, as the same bytes.")
@options.since
@options.until
@options.limit
@click.option("--totals", "only_totals", is_flag=True, help="Only what they come to, in each currency.")
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
    csv_to: str | None,
    as_json: bool,
) -> None:
    """List charging records, newest first, and what all that fit come to, to the last digit.

    Two CDRs with one request id and different bytes are in conflict: both are kept, and no total decides between them.
    One whose same bytes came again, because Plugsurfing did not take our answer for one, is one CDR; how often is told.
    """
    if csv_to is not None and (as_json or only_totals):
        raise click.UsageError("Choose --csv, or --json and --totals.")
    settings = settings_with_dev_defaults()
    filters = CdrFilters(
        session_id=session_id,
        user_id=user_id,
        request_id=request_id,
        keys=None if key is None else search_spellings(key, settings.authorize_key_bytes),
        since=since,
        until=until,
        in_conflict=in_conflict,
        repeated=repeated,
    )
    limit = options.limit_for(limit, as_json=as_json or csv_to is not None)
    with read_only_ledger(settings) as conn:
        if csv_to is not None:
            _export(csv_to, map(cdr_json, ledger_cdrs.find(conn, filters, limit)))
            return
        if as_json and not only_totals:
            for row in ledger_cdrs.find(conn, filters, limit):
                json_line(cdr_json(row))
            return
        rows = [] if only_totals else list(ledger_cdrs.find(conn, filters, limit))
        counted = ledger_cdrs.summary(conn, filters)
        # Of what cannot be read nobody knows whose it is.
        is_about_some = bool(session_id or user_id or request_id or key or in_conflict or repeated)
        unread = 0 if is_about_some else ledger_cdrs.unreadable(conn, since, until)
    if as_json:
        for total in counted.totals:
            json_line(total_json(total))
        return
    if not only_totals:
        table(("received", "id", "request id", "session", "driver", "amount", "kWh", "notes"), map(_cells, rows))
        if not in_conflict:
            options.warn_if_truncated(len(rows), limit)
        elif len(rows) == limit:
            click.echo(f"The first {limit}, by request id; --limit shows more.", err=True)
        click.echo()
    _print_summary(counted, unread)


def cdr_json(row: CdrRow) -> dict[str, Json]:
    """Write a CDR as `cdrs --json` and `--csv` do: amounts as text, as many read JSON's numbers as floats."""
    return {
        "id": row.delivery_id,
        "request_id": row.request_id,
        "session_id": row.session_id,
        "session_status": row.session_status,
        "user_id": row.user_id,
        "charging_key": row.charging_key,
        "amount": format_decimal(row.amount),
        "currency": row.currency,
        "energy_kwh": format_decimal(row.energy_kwh),
        "started_at": iso(row.started_at),
        "ended_at": iso(row.ended_at),
        "location": row.location,
        "operator": row.operator,
        "received_at": iso(row.received_at),
        "duplicates": row.duplicates,
        "conflict": row.in_conflict,
        "notes": list(row.notes),
    }


def total_json(total: CurrencyTotal) -> dict[str, Json]:
    """Write a total as `cdrs --totals --json` does."""
    return {
        "currency": total.currency,
        "cdrs": total.cdrs,
        "amount": format_decimal(total.amount),
        "in_conflict": total.in_conflict,
        "amount_in_conflict": format_decimal(total.amount_in_conflict),
        "without_amount": total.without_amount,
    }


def format_decimal(number: Decimal | None) -> str | None:
    """Write a number with all its digits and no exponent."""
    return None if number is None else format(number, "f")


def amount_in_words(row: CdrRow) -> str | None:
    """Write what a CDR costs: `7.03 EUR`."""
    return None if row.amount is None else f"{format_decimal(row.amount)} {row.currency or '?'}"


def notes_of(row: CdrRow) -> Iterator[str]:
    """Say what is unusual about a CDR."""
    if row.in_conflict:
        yield "in conflict"
    if row.duplicates:
        yield f"came {row.duplicates + 1} times"
    yield from row.notes


def _cells(row: CdrRow) -> Sequence[Cell]:
    notes = Text(printable(", ".join(notes_of(row))), style="bold red" if row.in_conflict else "")
    return (
        row.received_at,
        short_id(row.delivery_id),
        row.request_id,
        row.session_id,
        row.user_id,
        amount_in_words(row),
        format_decimal(row.energy_kwh),
        notes,
    )


def _print_summary(counted: CdrSummary, unread: int) -> None:
    """Write down what fits, counted and added up."""
    facts = [_pluralize(counted.cdrs, "CDR")]
    if counted.repeated:
        facts.append(f"{counted.repeated:,} came again, {_pluralize(counted.repeats, 'time')} in all")
    if counted.in_conflict:
        over = _pluralize(counted.request_ids_in_conflict, "request id")
        facts.append(f"{counted.in_conflict:,} in conflict over {over}")
    if counted.without_request_id:
        facts.append(f"{counted.without_request_id:,} without a request id (CDR_REQUEST_ID)")
    click.echo("; ".join(facts))
    if unread:
        click.echo(f"{unread:,} more could not be read: webhooks deliveries --state unreadable")
    if counted.totals:
        click.echo()
        headings = ("currency", "CDRs", "amount", "in conflict", "amount of these", "without an amount")
        table(headings, map(_total_cells, counted.totals))


def _pluralize(count: int, thing: str) -> str:
    return f"{count:,} {thing}" if count == 1 else f"{count:,} {thing}s"


def _total_cells(total: CurrencyTotal) -> Sequence[Cell]:
    amounts = format_decimal(total.amount), format_decimal(total.amount_in_conflict)
    return total.currency, total.cdrs, amounts[0], total.in_conflict, amounts[1], total.without_amount


def _export(csv_to: str, rows: Iterator[dict[str, Json]]) -> None:
    if csv_to == TO_STDOUT:
        write_csv(sys.stdout, rows)
        return
    with Path(csv_to).open("w", encoding="utf-8", newline="") as file:
        count = write_csv(file, rows)
    click.echo(f"{_pluralize(count, 'CDR')} written to {printable(csv_to)}.", err=True)
