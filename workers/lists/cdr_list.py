"""The lists of CDRs, of their totals, and of the sessions whose CDR is missing."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta

from rich.text import Text

from handlers.kit.key_identifiers import search_spellings
from ingest.wire.timestamps import utc_now
from workers.ledger import cdr_queries as ledger_cdrs
from workers.ledger import cdr_stats
from workers.ledger.cdr_queries import MOST_SESSIONS, CdrFilters, CdrRow, SessionWithoutCdr
from workers.ledger.cdr_stats import CurrencyTotal
from workers.lists.formatting import Cell, format_decimal, printable, short_id
from workers.lists.list_query import SESSION, SINCE, UNTIL, USER, Filter, ListQuery, Selection, Stores
from workers.lists.listing import Listing, attributes
from workers.lists.time_parsing import parse_time

TOTALS_SINCE = "24h"
BRIEF = timedelta(days=2)
SAME_SESSION = "same session as another CDR"


def amount_text(row: CdrRow) -> str | None:
    """Format the amount of a CDR: `7.03 EUR`."""
    return None if row.amount is None else f"{format_decimal(row.amount)} {row.currency or '?'}"


def notes_of(row: CdrRow) -> Iterator[str]:
    """Yield what is unusual about a CDR."""
    if row.is_repeat:
        yield "a repeat"
    if row.in_conflict:
        yield "in conflict" if row.is_counted else "in conflict, not counted"
    if row.shares_session:
        yield SAME_SESSION
    if row.duplicates:
        yield f"came {row.duplicates + 1} times"
    yield from row.notes


def _styled_notes(row: CdrRow) -> Cell:
    return Text(printable(", ".join(notes_of(row))), style="bold red" if row.in_conflict else "")


CDRS = Listing[CdrRow](
    fields={
        **attributes(id="delivery_id"),
        **attributes("request_id", "session_id", "session_status", "user_id", "charging_key", "amount", "currency"),
        **attributes("energy_kwh", "started_at", "ended_at", "location", "operator", "received_at", "duplicates"),
        **attributes(conflict="in_conflict", repeat="is_repeat", counted="is_counted"),
        "notes": lambda row: row.notes + (SAME_SESSION,) * row.shares_session,
    },
    columns={
        "received": "received_at",
        "id": lambda row: short_id(row.delivery_id),
        "request id": "request_id",
        "session": "session_id",
        "driver": "user_id",
        "amount": amount_text,
        "kWh": "energy_kwh",
        "notes": _styled_notes,
    },
)


SIDE_BY_SIDE = replace(CDRS, order="first")


TOTALS = Listing[CurrencyTotal](
    fields={
        **attributes("currency", "cdrs", "amount", "in_conflict", "amount_in_conflict", "without_amount"),
        **attributes("not_counted", "amount_not_counted"),
    },
    columns={
        "currency": "currency",
        "CDRs": "cdrs",
        "amount": "amount",
        "in conflict": "in_conflict",
        "amount in conflict": "amount_in_conflict",
        "without an amount": "without_amount",
        "not counted": "not_counted",
        "amount not counted": "amount_not_counted",
    },
)


MISSING = Listing[SessionWithoutCdr](
    fields=attributes("session_id", "user_id", "started_at", "completed_at", "known_at"),
    columns={
        "last news": "known_at",
        "session": "session_id",
        "driver": "user_id",
        "started": "started_at",
        "complete": "completed_at",
    },
)


def _find_cdrs(stores: Stores, wanted: Selection) -> Iterator[CdrRow]:
    key, request_id = wanted.get("key"), wanted.get("request")
    is_repeated = bool(wanted.get("repeated"))
    filters = CdrFilters(
        session_id=wanted.get("session"),
        user_id=wanted.get("user"),
        request_id=request_id,
        keys=None if key is None else search_spellings(key, stores.settings.authorize_key_bytes),
        since=wanted.get("since"),
        until=wanted.get("until"),
        in_conflict=bool(wanted.get("conflicts")),
        repeated=is_repeated,
        with_repeats=is_repeated or request_id is not None,
    )
    return ledger_cdrs.find(stores.ledger, filters, wanted.limit, wanted.before, newest_first=True)


CDR_QUERY = ListQuery[CdrRow](
    name="cdrs",
    title="CDRs",
    hint="Charging detail records. One that says the same as an earlier one is a repeat, and is not listed.",
    listing=CDRS,
    find=_find_cdrs,
    position=ledger_cdrs.position_of,
    filters=(
        SESSION,
        USER,
        Filter("request", "request id"),
        Filter("key", "charging key, in any spelling"),
        Filter("conflicts", "", choices=("only",)),
        Filter("repeated", "", choices=("only",)),
        SINCE,
        UNTIL,
    ),
)


def _find_totals(stores: Stores, wanted: Selection) -> tuple[CurrencyTotal, ...]:
    since, until = wanted.get("since") or parse_time(TOTALS_SINCE), wanted.get("until")
    is_brief = (until or utc_now()) - since <= BRIEF
    return cdr_stats.totals(stores.ledger, CdrFilters(since=since, until=until, is_brief=is_brief))


TOTAL_QUERY = ListQuery[CurrencyTotal](
    name="cdr-totals",
    title="Totals of CDRs",
    hint="By currency, exact to the last digit: of the last 24 hours unless a time is given. A CDR that came several "
    "times counts once; of those in conflict the one that was received first.",
    listing=TOTALS,
    find=_find_totals,
    filters=(SINCE, UNTIL),
)


def _find_missing(stores: Stores, wanted: Selection) -> list[SessionWithoutCdr]:
    return ledger_cdrs.sessions_without_cdr(
        stores.ledger,
        since=wanted.get("since"),
        until=wanted.get("until"),
        before=wanted.before,
        limit=wanted.limit,
    )


MISSING_QUERY = ListQuery[SessionWithoutCdr](
    name="missing-cdrs",
    title="Missing CDRs",
    hint=f"Sessions that are complete and have no CDR, among the newest {MOST_SESSIONS:,} of the span. A CDR may come "
    "hours after its session.",
    listing=MISSING,
    find=_find_missing,
    position=lambda session: (session.known_at, session.session_id),
    filters=(SINCE, UNTIL),
)
