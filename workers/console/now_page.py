"""The first page: how everything stands, live; and resolving alerts."""

from typing import Any

from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from ingest.errors import WebhooksError
from ingest.wire.timestamps import utc_now
from workers.access.access_control import actor_of
from workers.alerts.alerts import AlertKind, find_alerts, resolve_by_id
from workers.console.failure_page import done
from workers.console.overview import OverviewReader
from workers.console.page_stores import opener_of
from workers.console.page_template import live_event, live_patience, render
from workers.ledger import audit_log
from workers.ledger.audit_log import AuditAct, AuditEntry
from workers.ledger.database.transaction import run_in_transaction
from workers.lists.push_list import warnings_in_words

LIVE_EVERY = 5000
"""Milliseconds after which a page that is open asks again."""
SHOWN_ALERTS = 50

PAGES_OF_ALERTS = {
    AlertKind.DEAD_LETTERS: "/failures",
    AlertKind.HANDLER_FAILING: "/failures",
    AlertKind.PUSHES_DEAD: "/failures",
    AlertKind.PUSHES_LATE: "/pushes?state=waiting",
    AlertKind.UNREADABLE: "/deliveries?state=unreadable",
    AlertKind.SIGNATURES_FAILING: "/quarantine",
    AlertKind.WRONG_PATH: "/quarantine",
    AlertKind.GAP: "/downtimes",
    AlertKind.CDR_CONFLICT: "/cdrs?conflicts=only",
    AlertKind.CDR_IMPLAUSIBLE: "/cdrs",
    AlertKind.CDR_MISSING: "/missing-cdrs",
}
"""Where what an alert is about is shown, and put right if it can be."""


def now_page(request: Request) -> Response:
    """Show how everything stands."""
    return render(request, "now.html", {**_context(request), "patience": live_patience(LIVE_EVERY)})


def settings_page(request: Request) -> Response:
    """Show the settings in force, secrets masked."""
    rows = [(each.name, each.effective, each.default) for each in opener_of(request).settings.describe_all()]
    return render(request, "settings.html", {"rows": rows})


def live(request: Request) -> Response:
    """Send how everything stands as one server-sent event; the browser asks again by itself."""
    return live_event(request, "now_live.html", _context(request), LIVE_EVERY)


async def resolve_alert(request: Request) -> Response:
    """Resolve an alert: it is raised again only for a new cause."""
    stores, actor, alert_id = opener_of(request), actor_of(request), request.path_params["id"]

    def resolve(conn: Any) -> int:
        now = utc_now()
        count = resolve_by_id(conn, [alert_id], now)
        if count:
            audit_log.record(conn, AuditEntry(AuditAct.RESOLVED, actor, alert_id), now)
        return count

    count = await run_in_threadpool(run_in_transaction, stores.engine, resolve)
    return done("/", "The alert is resolved." if count else "The alert was resolved before.")


def _reader_of(request: Request) -> OverviewReader:
    reader: OverviewReader = request.app.state.overview
    return reader


def _context(request: Request) -> dict[str, Any]:
    overview = _reader_of(request).read()
    try:
        with opener_of(request).open() as stores:
            alerts = find_alerts(stores.ledger, only_open=True, limit=SHOWN_ALERTS)
    except (SQLAlchemyError, WebhooksError):  # the page says what else is wrong
        alerts = None
    return {
        "overview": overview,
        "alerts": alerts,
        "pages_of_alerts": PAGES_OF_ALERTS,
        "warnings": warnings_in_words(overview.today.warnings) if overview.today else {},
    }
