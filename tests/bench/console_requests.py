"""Which pages of the console are measured: each page, and each list newest first, its next page and by each filter."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from random import Random
from typing import Any
from urllib.parse import urlencode

from sqlalchemy import Connection, Engine, select

from ingest.wire.timestamps import utc_now
from tests.bench.large_ledger import CDR, FLEET, POINTS, RECORD, LargeLedger
from workers.console.list_page import LISTS
from workers.console.page_template import path_to
from workers.ledger.database.engine import read_only
from workers.ledger.dead_runs import group_dead_pushes, group_dead_runs
from workers.ledger.tables.core_tables import deliveries, pushes
from workers.lists.list_query import Filter, ListQuery, format_position

SAMPLES = 40
NEVER = "never-seen"


@dataclass(frozen=True)
class PageCase:
    """A page, and the addresses of it that are asked for in turn."""

    name: str
    addresses: Sequence[str]


def page_cases(engine: Engine, size: LargeLedger) -> list[PageCase]:
    """Return what is measured in a filled ledger."""
    with read_only(engine) as ledger:
        return [*_pages(ledger, size), *(case for query in LISTS.values() for case in _lists(query, size))]


def _pages(ledger: Connection, size: LargeLedger) -> Iterator[PageCase]:
    numbers = _numbers(size)
    some = list(ledger.scalars(select(deliveries.c.id).order_by(deliveries.c.id).limit(SAMPLES)))
    sent = list(ledger.scalars(select(pushes.c.id).order_by(pushes.c.id).limit(SAMPLES)))
    yield PageCase("Now", ["/"])
    yield PageCase("Now, live", ["/live"])
    for what, texts in (
        ("a driver", [size.driver(number).upper() for number in numbers]),
        ("the beginning of a driver", ["driver-1", "fleet", "DRIVER-22"]),
        ("a session", [size.session(number) for number in numbers]),
        ("the beginning of a session", [size.session(number)[:5] for number in numbers]),
        ("the beginning of a delivery", [each[:6] for each in some]),
        ("a charging key", [size.key(number).upper() for number in numbers]),
        ("nothing", [NEVER]),
    ):
        yield PageCase(f"Find {what}", [f"/find?{urlencode({'q': text})}" for text in texts])
    yield PageCase("a driver", [path_to("drivers", size.driver(number)) for number in numbers])
    yield PageCase("a driver of many sessions", [path_to("drivers", FLEET)])
    yield PageCase("a session", [path_to("sessions", size.session(number)) for number in numbers])
    yield PageCase("a delivery", [path_to("deliveries", each) for each in some])
    yield PageCase("a push", [path_to("pushes", each) for each in sent])
    yield PageCase("Failures", ["/failures"])
    for name, groups in (
        ("a cause of failures", [f"/failures/{each.cause.key}" for each in group_dead_runs(ledger, utc_now())]),
        (
            "a cause of dead pushes",
            [f"/failures/pushes/{one.cause.key}" for one in group_dead_pushes(ledger, utc_now())],
        ),
    ):
        if groups:
            yield PageCase(name, groups)
    yield PageCase("Settings", ["/settings"])
    yield PageCase("/api/stats of today", ["/api/stats"])
    yield PageCase("/api/openapi.json", ["/api/openapi.json"])
    yield PageCase("/api/drivers/{user}", [path_to("api/drivers", size.driver(number)) for number in numbers])
    yield PageCase("/api/deliveries/{id}", [path_to("api/deliveries", each) for each in some])


def _lists(query: ListQuery[Any], size: LargeLedger) -> Iterator[PageCase]:
    def case(what: str, *given: Mapping[str, str]) -> PageCase:
        return PageCase(
            " ".join(filter(None, (query.title, what))), [f"/{query.name}?{urlencode(each)}" for each in given]
        )

    yield case("", {})
    yield PageCase(f"{query.title}, 100 by /api/", [f"/api/{query.name}"])
    if query.position is not None:
        random, now = Random(size.seed), datetime.now(UTC)
        times = [now - timedelta(days=size.days) * random.random() for _ in range(SAMPLES)]
        yield case("next page", *({"before": format_position((at, ""))} for at in times))
    for each in query.filters:
        for what, texts in _values(each, size):
            yield case(f"by {each.name}: {what}", *({each.name: text} for text in texts))


def _values(wanted: Filter, size: LargeLedger) -> Iterator[tuple[str, Sequence[str]]]:
    """Yield values of a filter, with what they stand for; of one that names anything also what never was seen."""
    numbers = _numbers(size)
    known = {
        "since": {"yesterday": ["yesterday"], "all": [f"{size.days + 1:g}d"]},
        "until": {"half time": [f"{size.days / 2:g}d"]},
        "user": {"some": [size.driver(number) for number in numbers], "of many sessions": [FLEET]},
        "session": {"some": [size.session(number) for number in numbers]},
        "event": {name: [name] for name in ("SESSION_STARTED", "SESSION_FEE_INCURRING", "SESSION_FAILED")},
        "handler": {name: [name] for name in (RECORD, CDR, POINTS)},
        "key": {"some": [size.key(number).upper() for number in numbers]},
        "request": {"some": [f"r-{number - number % 2}" for number in numbers]},
        "policy": {"key_list": ["key_list"]},
        "channel": {"fcm": ["fcm"]},
        "actor": {"some": [f"p{number % 9}" for number in numbers]},
    }
    if wanted.choices:
        yield from ((choice, [choice]) for choice in wanted.choices)
        return
    yield from known.get(wanted.name, {}).items()
    if wanted.name not in {"since", "until"}:
        yield NEVER, [NEVER]


def _numbers(size: LargeLedger) -> list[int]:
    random = Random(size.seed)
    return list(islice((random.randrange(size.sessions) for _ in iter(int, 1)), SAMPLES))
