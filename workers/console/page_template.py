"""Renders templates: what comes from outside is text in them, never HTML, and shows what a terminal would interpret."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any, LiteralString
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape
from rich.text import Text
from starlette.convertors import Convertor, register_url_convertor
from starlette.requests import Request
from starlette.responses import Response
from starlette.templating import Jinja2Templates

from ingest.config.sections.dashboard import DashboardRole
from ingest.events import sanitize_text
from workers.access.roles import address_of, principal_of
from workers.ledger.states import WHOLE_DELIVERY
from workers.lists.formatting import (
    Sentence,
    cell_text,
    clock_name,
    clock_time,
    human_duration,
    iso,
    printable,
    printable_body,
)

NAVIGATION = (
    ("", "Now"),
    ("failures", "Failures"),
    ("deliveries", "Deliveries"),
    ("sessions", "Sessions"),
    ("pushes", "Pushes"),
    ("warnings", "Warnings"),
    ("authorizations", "Authorizations"),
    ("cdrs", "CDRs"),
    ("quarantine", "Quarantine"),
    ("alerts", "Alerts"),
    ("downtimes", "Downtimes"),
    ("handlers", "Handlers"),
    ("charging-keys", "Charging keys"),
    ("keys", "Signing keys"),
    ("settings", "Settings"),
    ("audit", "Audit"),
    ("rq/", "Queues"),
)
DONE_COOKIE = "done"
SLOWEST_EVENT = 15_000
"""Milliseconds which an event may take: one that waits for Redis and for the ledger is slow."""
SHOWN_OF_USER = 3
"""How many characters of a masked user id are shown."""


def render(request: Request, template: str, context: Mapping[str, Any]) -> Response:
    """Render a page."""
    shared = {"navigation": NAVIGATION, "zone": clock_name(), "done": _done(request)}
    page = TEMPLATES.TemplateResponse(request, template, {**shared, **context})
    if shared["done"]:
        page.delete_cookie(DONE_COOKIE)  # it belongs to this page, and not to the next one
    return page


def live_patience(every: int) -> int:
    """Return after how many milliseconds without an event an open page says that none came."""
    return every + SLOWEST_EVENT


def live_event(request: Request, template: str, context: Mapping[str, Any], every: int) -> Response:
    """Send a part of a page as one server-sent event; the browser asks again by itself after so many milliseconds.

    A stream without an end would outlive its login, and hold up the end of the process.
    """
    html = TEMPLATES.get_template(template).render(request=request, **context)
    lines = "".join(f"data: {line}\n" for line in html.splitlines())
    event = f"retry: {every}\nevent: now\n{lines}\n"
    return Response(event, media_type="text/event-stream", headers={"cache-control": "no-store"})


def _done(request: Request) -> str:
    """Return the sentence of an act that has just led to this page; the cookie lives for seconds."""
    try:
        return bytes.fromhex(request.cookies.get(DONE_COOKIE, "")).decode()
    except ValueError:
        return ""


def may_act(request: Request) -> bool:
    """Return whether the person may do more than look: a button that is refused is not shown."""
    return principal_of(request).may(DashboardRole.ACT)


def csrf_field(request: Request) -> Markup:
    """Return the hidden field that every form must have which changes something."""
    return fill('<input type="hidden" name="csrf_token" value="%s">', principal_of(request).csrf_token)


def path_to(section: str, *names: str) -> str:
    """Return the path of a page; names may hold anything."""
    return "/".join(["", section, *(quote(name.encode("utf-8", "surrogatepass"), safe="") for name in names)])


class NameConvertor(Convertor[str]):
    """Reads a name from a path of `path_to` as the ledger stores it, with slashes, lines and what else is in it."""

    regex = "(?s:.*)"

    def convert(self, value: str) -> str:
        """Return the name."""
        return sanitize_text(value)

    def to_string(self, value: str) -> str:
        """Return it as it is."""
        return value


register_url_convertor("name", NameConvertor())


def fill(html: LiteralString, *values: object) -> Markup:
    """Fill values into HTML of ours, each of them escaped; `Markup.format` takes three times as long."""
    return Markup(html % tuple(escape(value) for value in values))  # noqa: S704 - all that is not ours is escaped


def cell(value: object) -> Markup:  # noqa: PLR0911 - one return for each kind of value
    """Format a cell: a time with its zone for the script, a state with its class, text as text."""
    match value:
        case Markup():
            return value
        case datetime():
            return time_tag(value)
        case StrEnum():
            return fill('<span class="state %s">%s</span>', value.value, value.value)
        case str():
            return escape(printable(value))
        case Text():
            return fill('<span class="%s">%s</span>', _style_of(value), printable(value.plain))
        case Sentence():
            return Markup().join(cell(part) for part in value.parts)
        case None:
            return Markup('<span class="none">-</span>')
        case timedelta():
            return escape(human_duration(value))
        case _:
            return escape(cell_text(value).plain)


def time_tag(at: datetime) -> Markup:
    """Format a time in this machine's zone, which the script changes to the viewer's."""
    return fill('<time datetime="%s">%s</time>', iso(at), clock_time(at, "%Y-%m-%d %H:%M:%S"))


def lines(text: str) -> str:
    """Format a text of several lines, with nothing else in it that a terminal would interpret."""
    return printable_body(text.encode("utf-8", "backslashreplace"))


def clock(at: datetime) -> str:
    """Format a time of day in this machine's zone."""
    return at.astimezone().strftime("%H:%M:%S")


def handler_name(handler: str) -> str:
    """Format what has failed: a handler, or whole deliveries, which killed their workers."""
    return "whole deliveries" if handler == WHOLE_DELIVERY else printable(handler)


def masked(user_id: str) -> str:
    """Format a user id so that it can be recognized, but not read."""
    return printable(f"{user_id[:SHOWN_OF_USER]}…")


def _style_of(text: Text) -> str:
    styles = {str(text.style), *(str(span.style) for span in text.spans)}
    return "bad" if "bold red" in styles else "dim" if "dim" in styles else ""


def _environment() -> Environment:
    loader = FileSystemLoader(Path(__file__).with_name("templates"))
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.filters |= {"cell": cell, "printable": printable, "masked": masked, "duration": human_duration}
    environment.filters |= {"iso": iso, "clock": clock, "lines": lines, "handler_name": handler_name}
    environment.globals |= {"may_act": may_act, "path_to": path_to, "csrf_field": csrf_field, "address_of": address_of}
    return environment


TEMPLATES = Jinja2Templates(env=_environment())
