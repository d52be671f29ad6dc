"""The pages of one session, one delivery and one push."""

import base64
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import replace
from http import HTTPStatus

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from ingest.http.app import PATHS
from ingest.wire.envelope import Kind
from workers.access.roles import principal_of
from workers.console.page_stores import opener_of
from workers.console.page_template import masked, path_to, render
from workers.console.timeline_chart import draw_timeline
from workers.diagnostics.session_timeline import TimelineEntry
from workers.ledger import push_queries, pushes
from workers.ledger.dead_runs import type_of
from workers.ledger.deliveries import DeliveryRow
from workers.ledger.runs import RunRecord
from workers.lists.delivery_list import RUNS, deletion_text
from workers.lists.delivery_sources import find_one
from workers.lists.formatting import Cell, Sentence, printable_body
from workers.lists.session_list import record_pairs, timeline_rows
from workers.lists.session_record import read_session
from workers.plugins import learn_events

TIMELINE_HEADINGS = ("time", "late", "what came", "result")
UNKNOWN_SESSION = "The ledger knows no session with this id."
SECRET_HEADERS = {"authorization", "x-hmac-sha512-signature"}


def session_page(request: Request) -> Response:
    """Show what is known of a session: its timeline as a picture and as a list."""
    session_id = request.path_params["id"]
    learn_events(opener_of(request).settings)
    with opener_of(request).open() as stores:
        found = read_session(stores.ledger, stores.settings, session_id)
    if not found.is_known:
        raise HTTPException(HTTPStatus.NOT_FOUND, UNKNOWN_SESSION)
    record = found.session
    reveals = principal_of(request).reveals
    users = () if reveals else tuple(record.users)
    entries = found.entries if reveals else [without_messages(each) for each in found.entries]
    context = {
        "session_id": session_id,
        "pairs": [(name, without_users(value, users)) for name, value in record_pairs(record, found.cdrs, found.poll)],
        "user_id": record.user_id if principal_of(request).reveals else None,
        "has_users": bool(record.users),
        "picture": draw_timeline(record, found.entries),
        "headings": TIMELINE_HEADINGS,
        "rows": [[without_users(each, users) for each in row] for row in timeline_rows(record, entries, found.cdrs)],
    }
    return render(request, "session.html", context)


def delivery_page(request: Request) -> Response:
    """Show a delivery with its runs, and its headers and body if these were asked for."""
    with opener_of(request).open() as stores:
        row = find_one(stores.outbox, stores.ledger, request.path_params["id"])
    if row is None:
        raise HTTPException(HTTPStatus.NOT_FOUND, "No delivery, or more than one, has an id that begins so.")
    if row.id != request.path_params["id"]:
        return RedirectResponse(path_to("deliveries", row.id), HTTPStatus.SEE_OTHER)
    reveals = principal_of(request).reveals
    context = {
        "row": row,
        "pairs": _pairs(row),
        "headings": list(RUNS.columns),
        "runs": [RUNS.values(run if reveals else without_message(run)) for run in row.runs],
        "tracebacks": [(run.handler, run.traceback) for run in row.runs if run.traceback] if reveals else [],
        "body": printable_body(row.body or b"") if reveals else None,
        "curl": curl_of(row, opener_of(request).settings.port) if reveals and row.body_deleted_at is None else None,
    }
    return render(request, "delivery.html", context)


def push_page(request: Request) -> Response:
    """Show a push."""
    with opener_of(request).open() as stores:
        push_id = push_queries.resolve_id(stores.ledger, request.path_params["id"])
        push = pushes.get(stores.ledger, push_id) if push_id else None
    if push is None:
        raise HTTPException(HTTPStatus.NOT_FOUND, "No push, or more than one, has an id that begins so.")
    return render(request, "push.html", {"push": push, "reveals": principal_of(request).reveals})


def without_message(run: RunRecord) -> RunRecord:
    """Return a run of whose error only the type is left: what follows may be a body or a driver."""
    return run if run.error is None else replace(run, error=type_of(run.error))


def without_messages(entry: TimelineEntry) -> TimelineEntry:
    """Return an entry of a timeline whose runs are without the messages of errors."""
    return replace(entry, delivery=replace(entry.delivery, runs=tuple(map(without_message, entry.delivery.runs))))


def without_users(value: Cell, users: Iterable[str]) -> Cell:
    """Mask user ids in a cell."""
    if isinstance(value, Sentence):
        return Sentence(tuple(without_users(part, users) for part in value.parts))
    if isinstance(value, str):
        for user_id in users:
            value = value.replace(user_id, masked(user_id)) if user_id else value
    return value


def curl_of(row: DeliveryRow, port: int) -> str:
    """Format a delivery as a command that sends its bytes again, without a signature: `webhooks send` signs."""
    path = PATHS.get(Kind(row.kind), "/") if row.kind in set(Kind) else "/"
    words = ["curl", "-X", "POST", f"http://127.0.0.1:{port}{path}"]
    for name, value in row.headers.items():
        if name.lower() not in SECRET_HEADERS:
            words += ["-H", f"{name}: {value}"]
    encoded = base64.b64encode(row.body or b"").decode("ascii")
    return f"echo {encoded} | base64 -d | {shlex.join([*words, '--data-binary', '@-'])}"


def _pairs(row: DeliveryRow) -> Sequence[tuple[str, Cell]]:
    pairs: list[tuple[str, Cell]] = [
        ("event", row.event or row.kind),
        ("received", row.received_at),
        ("came", f"{row.duplicates + 1} times" if row.duplicates else None),
        ("state", row.state),
        ("reason", row.reason),
        ("settled", row.settled_at),
        ("key", row.signed_with),
        ("signed", row.signed_at),
        ("inbox", row.inbox),
        ("body", deletion_text(row)),
    ]
    return [(name, value) for name, value in pairs if value is not None]
