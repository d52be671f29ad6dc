"""Find, by one box, and the page of a driver: everything known of them, and why there was a warning or none."""

from http import HTTPStatus
from urllib.parse import urlencode

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from ingest.wire.timestamps import utc_now
from workers.access.access_control import AUDIT_TIMEOUT, NOT_RECORDED, actor_of
from workers.console.list_page import rows_of, shows_users
from workers.console.page_stores import opener_of
from workers.console.page_template import path_to, render
from workers.ledger import audit_log
from workers.ledger.audit_log import AuditAct, AuditEntry
from workers.ledger.database.transaction import LedgerUnavailable, run_in_transaction
from workers.lists.driver_record import read_driver
from workers.lists.search import CDR, DELIVERY, DRIVER, KEY, PUSH, SESSION, SearchHit, search

SHOWN = 50
A_DRIVER = "/drivers/…"
"""Of each list of a driver."""
SECTIONS = {DRIVER: "drivers", SESSION: "sessions", DELIVERY: "deliveries", PUSH: "pushes"}
FILTERS = {CDR: ("cdrs", "request"), KEY: ("authorizations", "key")}


def find_page(request: Request) -> Response:
    """Show what has a name, or the page of it if it is the only one."""
    text = request.query_params.get("q", "")
    with opener_of(request).open() as stores:
        hits = search(stores.ledger, stores.settings, text)
    # Who typed only the beginning of a driver's id does not know it yet: it is masked as on any other page.
    shown = [(each, url_of(each), _is_masked(request, each, text)) for each in hits]
    if len(shown) == 1 and not shown[0][2]:
        return RedirectResponse(shown[0][1], HTTPStatus.SEE_OTHER)
    return render(request, "find.html", {"q": text, "hits": shown})


def _is_masked(request: Request, hit: SearchHit, text: str) -> bool:
    return hit.kind == DRIVER and hit.name.lower() != text.strip().lower() and not shows_users(request)


def url_of(hit: SearchHit) -> str:
    """Return the page of what was found."""
    if hit.kind in SECTIONS:
        return path_to(SECTIONS[hit.kind], hit.name)
    section, name = FILTERS[hit.kind]
    return f"{path_to(section)}?{urlencode({name: hit.name})}"


def driver_page(request: Request) -> Response:
    """Show everything that is known of a driver."""
    user_id = request.path_params["user"]
    with opener_of(request).open() as stores:
        driver = read_driver(stores.ledger, user_id, SHOWN)
    if not driver.is_known:
        raise HTTPException(HTTPStatus.NOT_FOUND, "The ledger knows no driver with this id. Is it written correctly?")
    record_view(request)
    context = {
        "user_id": driver.user_id,
        "sessions": driver.sessions,
        "lists": [
            # Whoever came here knows the driver, and that they looked is recorded.
            (title, query.name, rows_of(query, list(rows), {}, show_users=True))
            for title, query, rows in driver.lists()
        ],
        "shown": SHOWN,
    }
    return render(request, "driver.html", context)


def record_view(request: Request) -> None:
    """Record who opens the page of a driver, whom the audit log does not name; raise if it cannot be recorded."""
    entry, now = AuditEntry(AuditAct.USER_VIEWED, actor_of(request), A_DRIVER), utc_now()
    engine = opener_of(request).engine
    try:
        run_in_transaction(engine, lambda conn: audit_log.record(conn, entry, now), retry_for=AUDIT_TIMEOUT)
    except LedgerUnavailable:
        raise HTTPException(HTTPStatus.SERVICE_UNAVAILABLE, NOT_RECORDED) from None
