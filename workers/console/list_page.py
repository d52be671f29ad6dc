"""Any list as a page, as JSON and as CSV, with its filters and its position in the URL."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from http import HTTPStatus
from itertools import islice
from typing import Any, TypeAlias
from urllib.parse import urlencode

from markupsafe import Markup
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from workers.access.roles import principal_of
from workers.console.list_export import export
from workers.console.page_stores import opener_of
from workers.console.page_template import cell, fill, masked, path_to, render
from workers.ledger.dead_runs import frames_of, type_of
from workers.lists.alert_list import ALERT_QUERY
from workers.lists.audit_list import AUDIT_QUERY
from workers.lists.authorization_list import AUTHORIZATION_QUERY
from workers.lists.cdr_list import CDR_QUERY, MISSING_QUERY, TOTAL_QUERY
from workers.lists.delivery_list import DELIVERY_QUERY, DOWNTIME_QUERY
from workers.lists.device_list import DEVICE_QUERY
from workers.lists.handler_list import HANDLER_QUERY
from workers.lists.key_list import CHARGING_KEY_QUERY, KEY_QUERY
from workers.lists.list_query import InvalidFilter, ListQuery, Selection, Stores, format_position, parse_position
from workers.lists.listing import Listing, Value
from workers.lists.push_list import PUSH_QUERY, WARNING_QUERY
from workers.lists.quarantine_list import QUARANTINE_QUERY
from workers.lists.session_list import SESSION_QUERY

PAGE_SIZE = 50

QUERIES = (
    DELIVERY_QUERY,
    SESSION_QUERY,
    PUSH_QUERY,
    WARNING_QUERY,
    AUTHORIZATION_QUERY,
    CDR_QUERY,
    TOTAL_QUERY,
    MISSING_QUERY,
    QUARANTINE_QUERY,
    ALERT_QUERY,
    DOWNTIME_QUERY,
    HANDLER_QUERY,
    KEY_QUERY,
    CHARGING_KEY_QUERY,
    DEVICE_QUERY,
    AUDIT_QUERY,
)
LISTS: Mapping[str, ListQuery[Any]] = {query.name: query for query in QUERIES}

# Headings of columns that lead to a page, with the field that names it.
LINKS = {
    "session": ("sessions", "session_id"),
    "user": ("drivers", "user_id"),
    "driver": ("drivers", "user_id"),
    "delivery": ("deliveries", "delivery"),
}
# Columns of a list that lead to another one, whose filter has the name of the column.
FILTER_LINKS = {("authorizations", "key"): "charging-keys", ("charging-keys", "key"): "authorizations"}
OF_USERS = {"user", "driver"}
USER_FIELDS = {"user_id"}
HIDDEN_FIELDS = {"body_base64", "token"}
RUNS = "runs"


@dataclass(frozen=True)
class Rows:
    """The rows of a page, their cells formatted, and the URL of the next page if there is one."""

    headings: list[str]
    cells: list[list[Markup]]
    next_url: str | None
    has_users: bool


Top: TypeAlias = Callable[[Request, Stores, Selection], Mapping[str, Any]]
"""Reads what a template of its own shows above a list."""


def list_page(query: ListQuery[Any], top: Top | None = None) -> Callable[[Request], Response]:
    """Return the endpoint of a list; `top` is for its template `top_NAME.html`."""

    def page(request: Request) -> Response:
        form = request.url.path.rpartition(".")[2]
        is_export = form in {"json", "csv"}
        try:
            selection = selection_of(query, request.query_params)
        except InvalidFilter as error:
            if is_export:
                raise HTTPException(HTTPStatus.BAD_REQUEST, f"The filter {error}") from None
            return _to_be_corrected(request, query, error)
        if is_export:
            listing = query.listing if shows_users(request) else without_secrets(query.listing)
            return export(opener_of(request), query, selection, listing, form)
        with opener_of(request).open(reads_ledger=query.reads_ledger) as stores:
            found = list(islice(query.find(stores, selection), PAGE_SIZE + 1))
            above = {} if top is None else {**top(request, stores, selection), "top": f"top_{query.name}.html"}
        rows = rows_of(query, found, request.query_params, show_users=shows_users(request))
        # An export of all that the filters match, whichever page it is asked for on.
        all_pages = {name: text for name, text in request.query_params.items() if name != "before"}
        everything = urlencode(all_pages, errors="surrogatepass")
        shared = {"query": query, "given": request.query_params, "rows": rows, "top": None, "everything": everything}
        return render(request, "list.html", {**shared, **above})

    return page


def _to_be_corrected(request: Request, query: ListQuery[Any], error: InvalidFilter) -> Response:
    context = {"query": query, "given": request.query_params, "sentence": f"The filter {error}"}
    answer = render(request, "invalid_filter.html", context)
    answer.status_code = HTTPStatus.BAD_REQUEST
    return answer


def selection_of(query: ListQuery[Any], texts: Mapping[str, str]) -> Selection:
    """Parse a URL's parameters; raise InvalidFilter."""
    before = texts.get("before")
    position = parse_position(before) if before and query.position else None
    return Selection(filters=query.parse(texts), limit=PAGE_SIZE + 1, before=position)


def shows_users(request: Request) -> bool:
    """Return whether user ids were asked for on this page, which is recorded."""
    return principal_of(request).reveals


def rows_of(query: ListQuery[Any], found: list[Any], given: Mapping[str, str], *, show_users: bool) -> Rows:
    """Format rows, of which one more than a page shows that there is a next page."""
    next_url = None
    if query.position is not None and len(found) > PAGE_SIZE:
        last = format_position(query.position(found[PAGE_SIZE - 1]))
        next_url = f"?{urlencode({**given, 'before': last}, errors='surrogatepass')}"
    cells = [list(_cells(query, row, show_users=show_users)) for row in found[:PAGE_SIZE]]
    return Rows(list(query.listing.columns), cells, next_url, bool(OF_USERS & set(query.listing.columns)))


def without_secrets(listing: Listing[Any]) -> Listing[Any]:
    """Return a list whose rows have neither user ids nor bodies."""

    def hidden(name: str, value: Callable[[Any], Value]) -> Callable[[Any], Value]:
        if name in HIDDEN_FIELDS:
            return lambda _row: None
        if name == RUNS:
            return lambda row: without_messages(value(row))
        return (lambda row: value(row) and masked(str(value(row)))) if name in USER_FIELDS else value

    return replace(listing, fields={name: hidden(name, value) for name, value in listing.fields.items()})


def without_messages(found: Any) -> Any:
    """Return runs of whose errors only the types and the places are left: what follows may be a body or a driver."""
    if not isinstance(found, list):  # in the numbers of a span it is counts
        return found
    return [
        run
        | ({"error": type_of(run["error"])} if run.get("error") else {})
        | ({"reason": None} if run.get("error") and run.get("reason") else {})  # the message again
        | ({"traceback": frames_of(run["traceback"])} if run.get("traceback") else {})
        for run in found
    ]


def _cells(query: ListQuery[Any], row: Any, *, show_users: bool) -> Iterator[Markup]:
    for heading, column in query.listing.columns.items():
        value = (query.listing.fields[column] if isinstance(column, str) else column)(row)
        address = _address_of(query, heading, row)
        if heading in OF_USERS and isinstance(value, str) and not show_users:
            yield fill('<span class="masked">%s</span>', masked(value))
        elif address is not None:
            yield fill('<a href="%s">%s</a>', address, cell(value))
        else:
            yield cell(value)


def _address_of(query: ListQuery[Any], heading: str, row: Any) -> str | None:
    """Return the page that a cell leads to."""
    fields, other = query.listing.fields, FILTER_LINKS.get((query.name, heading))
    if other is not None:
        key = fields[heading](row)
        return None if key is None else f"{path_to(other)}?{urlencode({heading: key}, errors='surrogatepass')}"
    section, name = (query.name, "id") if query.has_pages_of_rows and heading == "id" else LINKS.get(heading, ("", ""))
    target = fields[name](row) if name in fields else None
    return path_to(section, target) if isinstance(target, str) and target else None
