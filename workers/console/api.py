"""The read-only JSON API: the lists of the console with the same filters, a driver, a delivery, numbers of a span.

What is masked on a page is masked here, until a program asks with `reveal=true`, which is recorded.
"""

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from http import HTTPStatus
from importlib.metadata import version
from itertools import islice
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from ingest.wire.timestamps import utc_now
from workers.access.roles import principal_of
from workers.console.detail_pages import UNKNOWN_SESSION
from workers.console.driver_page import record_view
from workers.console.list_page import HIDDEN_FIELDS, LISTS, RUNS, USER_FIELDS, without_messages
from workers.console.overview import Overview
from workers.console.page_stores import opener_of
from workers.console.page_template import masked
from workers.ledger.dead_runs import FailureGroup, group_dead_pushes, group_dead_runs
from workers.ledger.moot_runs import MootGroup, group_moot_runs
from workers.ledger.stats_queries import read_stats
from workers.lists.delivery_list import DETAILS
from workers.lists.delivery_sources import find_one
from workers.lists.driver_record import read_driver
from workers.lists.formatting import Json, iso
from workers.lists.list_query import InvalidFilter, ListQuery, Selection, Stores, format_position, parse_position
from workers.lists.session_record import read_session
from workers.lists.stats_document import stats_json
from workers.lists.time_parsing import parse_since, parse_time

PREFIX = "/api"
DEFAULT_ROWS = 100
MAX_ROWS = 1000
BODY_FIELDS = {"body", "body_base64", "headers"}
"""Of a single delivery. In the lists of pushes `body` is a text of ours."""


class NameUnknown(LookupError):
    """Raised when nothing has the name that was asked for."""


def api_routes() -> list[Route]:
    """Return the routes, all of them GET."""
    lists = [Route(f"{PREFIX}/{name}", _endpoint(_list_reader(query), query)) for name, query in LISTS.items()]
    return [
        Route(f"{PREFIX}/", lambda _request: RedirectResponse(f"{PREFIX}/openapi.json")),
        Route(f"{PREFIX}/openapi.json", lambda _request: _json_response(openapi_document())),
        Route(f"{PREFIX}/stats", _endpoint(lambda stores, request: read_span(stores, request.query_params))),
        Route(
            f"{PREFIX}/drivers/{{user:name}}",
            _endpoint(_read_driver),
        ),
        Route(
            f"{PREFIX}/sessions/{{session:name}}",
            _endpoint(lambda stores, request: one_session(stores, _name(request, "session"))),
        ),
        Route(f"{PREFIX}/failures", _endpoint(lambda stores, request: read_failures(stores, request.query_params))),
        Route(f"{PREFIX}/now", lambda request: _json_response(overview_json(request.app.state.overview.read()))),
        Route(
            f"{PREFIX}/deliveries/{{id:name}}",
            _endpoint(lambda stores, request: one_delivery(stores, _name(request, "id"))),
        ),
        *lists,
    ]


def read_list(stores: Stores, query: ListQuery[Any], texts: Mapping[str, str]) -> dict[str, Json]:
    """Return some rows of a list, and the position of the next ones; raise InvalidFilter."""
    _refuse_unknown(texts, {*(each.name for each in query.filters), "limit", "before", "reveal"})
    limit = _limit(texts.get("limit"))
    before = texts.get("before")
    position = parse_position(before) if before and query.position else None
    selection = Selection(filters=query.parse(texts), limit=limit + 1, before=position)
    found = list(islice(query.find(stores, selection), limit + 1))
    is_cut = query.position is not None and len(found) > limit
    following = format_position(query.position(found[limit - 1])) if is_cut and query.position is not None else None
    return {"rows": [query.listing.json(row) for row in found[:limit]], "next": following}


def read_span(stores: Stores, texts: Mapping[str, str]) -> dict[str, Json]:
    """Return the numbers of a span, by default of today; raise InvalidFilter."""
    _refuse_unknown(texts, {"since", "until"})
    try:
        since = parse_since(texts.get("since") or "today")
        until = parse_time(texts["until"]) if texts.get("until") else datetime.now(UTC)
    except ValueError as error:
        raise InvalidFilter(f"of the time is {error}.") from None
    return stats_json(read_stats(stores.ledger, since, until))


def one_driver(stores: Stores, user_id: str) -> dict[str, Json]:
    """Return what is known of a driver; raise NameUnknown."""
    driver = read_driver(stores.ledger, user_id, DEFAULT_ROWS)
    if not driver.is_known:
        raise NameUnknown("The ledger knows no driver with this id.")
    return driver.json()


def one_session(stores: Stores, session_id: str) -> dict[str, Json]:
    """Return what is known of a session; raise NameUnknown."""
    session = read_session(stores.ledger, stores.settings, session_id)
    if not session.is_known:
        raise NameUnknown(UNKNOWN_SESSION)
    return session.json()


def read_failures(stores: Stores, texts: Mapping[str, str]) -> dict[str, Json]:
    """Return the causes of dead runs, of dead pushes and of moot runs, the last seen first; raise InvalidFilter."""
    _refuse_unknown(texts, {"reveal"})
    now = utc_now()
    return {
        "runs": [_failure_json(each) for each in group_dead_runs(stores.ledger, now)],
        "pushes": [_failure_json(each) for each in group_dead_pushes(stores.ledger, now)],
        "moot": [_moot_json(each) for each in group_moot_runs(stores.ledger, now)],
    }


def overview_json(overview: Overview) -> dict[str, Json]:
    """Return how everything stands."""
    return {
        "at": iso(overview.at),
        "checks": [
            {"status": each.status, "subject": each.subject, "sentence": each.sentence, "since": iso(each.since)}
            for each in overview.lines
        ],
        "oldest_unsettled_at": iso(overview.oldest_at),
        "jobs": overview.depths,
        "deliveries_a_minute": list(overview.rates),
        "today": None if overview.today is None else stats_json(overview.today),
    }


def _failure_json(group: FailureGroup) -> dict[str, Json]:
    return {
        "key": group.cause.key,
        "name": group.cause.name,
        "error": group.cause.error,
        "place": group.cause.place,
        "count": len(group.ids),
        "may_be_more": group.is_cut,
        "first_at": iso(group.first_at),
        "last_at": iso(group.last_at),
        "by_hour": list(group.hours),
        "newest": group.ids[0],
    }


def _moot_json(group: MootGroup) -> dict[str, Json]:
    return {
        "handler": group.handler,
        "reason": group.reason,
        "count": group.count,
        "may_be_more": group.is_cut,
        "last_at": iso(group.last_at),
    }


def one_delivery(stores: Stores, prefix: str) -> dict[str, Json]:
    """Return a delivery with its runs and its body; raise NameUnknown."""
    row = find_one(stores.outbox, stores.ledger, prefix)
    if row is None:
        raise NameUnknown("No delivery, or more than one, has an id that begins so.")
    return DETAILS.json(row)


def without_persons(value: Json, hidden: frozenset[str] = frozenset()) -> Json:
    """Return JSON whose user ids are masked, without bodies, tokens and the fields that are to be hidden."""
    match value:
        case Mapping():
            return {
                name: None
                if name in HIDDEN_FIELDS | hidden
                else masked(each)
                if name in USER_FIELDS and isinstance(each, str)
                else _masked_texts(each)
                if name in USER_FIELDS
                else without_messages(each)
                if name == RUNS
                else without_persons(each, hidden)
                for name, each in value.items()
            }
        case list() | tuple():
            return [without_persons(each, hidden) for each in value]
        case _:
            return value


def _masked_texts(value: Json) -> Json:
    """Mask every text: of a change of the driver those before and after."""
    if not isinstance(value, Mapping):
        return value
    return {name: masked(each) if isinstance(each, str) else each for name, each in value.items()}


def openapi_document() -> dict[str, Json]:
    """Build the OpenAPI document from the filters and the fields of the lists."""
    paths: dict[str, Json] = {
        f"{PREFIX}/{name}": _operation(
            f"list_{name}",
            f"{query.title}, newest first",
            [*(_parameter(each.name, each.hint, each.choices) for each in query.filters), *PAGING],
            _object(rows=_array(_object(**dict.fromkeys(query.listing.fields, ANY))), next=NULLABLE_TEXT),
        )
        for name, query in LISTS.items()
    }
    times = [_parameter("since", "Default: today."), _parameter("until", "Default: now.")]
    numbers = ("events", "deliveries", "warnings", "pushes", "authorizations", "runs", "latency")
    schema = _object(since=TEXT, until=TEXT, **dict.fromkeys(numbers, COUNTS))
    paths[f"{PREFIX}/stats"] = _operation("stats", "What happened in a span, in numbers", times, schema)
    for path, name, what in (
        ("drivers/{user}", "user", "Everything that is known of a driver, whose id may be in any case"),
        ("sessions/{session}", "session", "A charging session: its record, timeline, pushes, CDRs and fee notices"),
        ("deliveries/{id}", "id", "A delivery with its runs and its body; the beginning of its id is enough"),
    ):
        named: Json = {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
        paths[f"{PREFIX}/{path}"] = _operation(path.partition("/")[0], what, [named, REVEAL], ANY_OBJECT, missing=True)
    causes = _array(_object(**FAILURE))
    paths[f"{PREFIX}/failures"] = _operation(
        "failures",
        "What failed for good, one row for each cause, and what became moot within 24 hours",
        [REVEAL],
        _object(runs=causes, pushes=causes, moot=_array(_object(**MOOT))),
    )
    paths[f"{PREFIX}/now"] = _operation("now", "How everything stands: checks, queues, today's numbers", [], ANY_OBJECT)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "webhooks dashboard",
            "version": version("plugsurfing-webhooks"),
            "description": "Read-only. Send the secret of a user of DASHBOARD_USERS as a bearer token. User ids are "
            "masked, and bodies left out, unless `reveal=true` asks for them, which is in the audit log. Times take "
            "ISO 8601, `10m`, `2h`, `3d`, `today`, `yesterday`, `18:00`.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "http://127.0.0.1:8002", "description": "HOST and DASHBOARD_PORT as they are by default"}],
        "security": [{"bearer": []}],
        "paths": paths,
        "components": {"securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}}},
    }


TEXT: dict[str, Json] = {"type": "string"}
NULLABLE_TEXT: dict[str, Json] = {"type": ["string", "null"]}
ANY: dict[str, Json] = {}
ANY_OBJECT: dict[str, Json] = {"type": "object"}
FAILURE: dict[str, Json] = {
    **dict.fromkeys(("key", "name", "error", "first_at", "last_at", "newest"), TEXT),
    "place": NULLABLE_TEXT,
    "count": {"type": "integer"},
    "may_be_more": {"type": "boolean"},
    "by_hour": {"type": "array", "items": {"type": "integer"}},
}
MOOT: dict[str, Json] = {
    **dict.fromkeys(("handler", "reason", "last_at"), TEXT),
    "count": {"type": "integer"},
    "may_be_more": {"type": "boolean"},
}
COUNTS: dict[str, Json] = {"type": "object"}


def _parameter(name: str, description: str, choices: Any = ()) -> dict[str, Json]:
    # Empty is any, as in a form: it counts as not given.
    schema: dict[str, Json] = {"type": "string", **({"enum": [*choices, ""]} if choices else {})}
    return {"name": name, "in": "query", "description": description, "schema": schema}


REVEAL = _parameter("reveal", "Show user ids and bodies; this is recorded.", ("true",))
PAGING: tuple[dict[str, Json], ...] = (
    {
        "name": "limit",
        "in": "query",
        "schema": {"type": "integer", "minimum": 1, "maximum": MAX_ROWS, "default": DEFAULT_ROWS},
    },
    _parameter("before", "`next` of the page before."),
    REVEAL,
)


def _object(**properties: Json) -> dict[str, Json]:
    return {"type": "object", "properties": properties, "required": [*properties]}


def _array(items: Json) -> dict[str, Json]:
    return {"type": "array", "items": items}


def _operation(
    name: str, summary: str, parameters: list[Json] | list[dict[str, Json]], schema: Json, *, missing: bool = False
) -> dict[str, Json]:
    error: Json = {"application/json": {"schema": _object(error=TEXT)}}
    answers: dict[str, Json] = {"200": {"description": "It.", "content": {"application/json": {"schema": schema}}}}
    for status, description in (
        ("400", "A filter is not understood."),
        ("503", "The ledger cannot be read, or what is asked for cannot be recorded."),
        *((("404", "There is none."),) if missing else ()),
    ):
        answers[status] = {"description": description, "content": error}
    answers["401"] = {"description": "The token is missing or wrong."}
    return {"get": {"operationId": name, "summary": summary, "parameters": parameters, "responses": answers}}


def _refuse_unknown(texts: Mapping[str, str], known: set[str]) -> None:
    """Raise InvalidFilter for a filter that there is not: a misspelt one would be none."""
    unknown = sorted(texts.keys() - known)
    if unknown:
        raise InvalidFilter(f"{', '.join(unknown)} is unknown here.")


def _limit(text: str | None) -> int:
    if text is None:
        return DEFAULT_ROWS
    if not (text.isascii() and text.isdecimal() and 1 <= int(text[:5]) <= MAX_ROWS and len(text) <= len(str(MAX_ROWS))):
        raise InvalidFilter(f"limit is a number from 1 to {MAX_ROWS}.")
    return int(text)


def _read_driver(stores: Stores, request: Request) -> Json:
    found = one_driver(stores, _name(request, "user"))
    if not principal_of(request).reveals:  # which is recorded, too
        record_view(request)
    return found


def _list_reader(query: ListQuery[Any]) -> Callable[[Stores, Request], Json]:
    return lambda stores, request: read_list(stores, query, request.query_params)


def _endpoint(
    read: Callable[[Stores, Request], Json], query: ListQuery[Any] | None = None
) -> Callable[[Request], Response]:
    reads_ledger = query is None or query.reads_ledger

    def endpoint(request: Request) -> Response:
        try:
            if request.query_params.get("reveal", "true") != "true":
                raise InvalidFilter("reveal is true, or is left out.")  # noqa: TRY301 - as any other filter
            with opener_of(request).open(reads_ledger=reads_ledger) as stores:
                found = read(stores, request)
        except InvalidFilter as error:
            raise HTTPException(HTTPStatus.BAD_REQUEST, f"The filter {error}") from None
        except NameUnknown as error:
            raise HTTPException(HTTPStatus.NOT_FOUND, str(error)) from None
        hidden = frozenset(BODY_FIELDS) if "id" in request.path_params else frozenset()
        return _json_response(found if principal_of(request).reveals else without_persons(found, hidden))

    return endpoint


def _name(request: Request, name: str) -> str:
    found: str = request.path_params[name]
    return found


def _json_response(document: Json) -> Response:
    return Response(json.dumps(document), media_type="application/json")
