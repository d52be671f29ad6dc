"""Lists of handlers and of policies."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import floor
from pathlib import Path
from typing import TypeAlias

from redis.exceptions import RedisError
from rich.text import Text
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from handlers.kit.policies import Policy
from handlers.kit.subscriptions import Subscription
from ingest.config.settings import Settings
from ingest.errors import WebhooksError
from ingest.wire.timestamps import utc_now
from workers.installation import open_queues
from workers.lists.formatting import Cell, human_duration, pluralize
from workers.lists.list_query import ListQuery, Selection, Stores
from workers.lists.listing import Listing, Value, attributes
from workers.observability.handler_metrics import HandlerMetrics, read_handler_metrics
from workers.plugins import Plugins, load_plugins

REDIS_TIMEOUT = 2

Metrics: TypeAlias = Mapping[str, HandlerMetrics]
"""By handler."""


def _events(each: Subscription) -> list[str]:
    return [event.wire_name or event.__name__ for event in each.events]


def _relative(file: str) -> str:
    path = Path(file)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else file


@dataclass(frozen=True)
class HandlerRow:
    """A handler, and how it did in the last 24 hours and in the last 7 days; None if Redis does not answer."""

    handler: Subscription
    day: HandlerMetrics | None = None
    week: HandlerMetrics | None = None


def handler_rows(settings: Settings, engine: Engine | None, plugins: Plugins) -> list[HandlerRow]:
    """Return a row for each handler; without the ledger's engine nothing is asked of Redis."""
    metrics = None if engine is None else _read_metrics(settings, engine)
    if metrics is None:
        return [HandlerRow(each) for each in plugins.subscriptions]
    none = HandlerMetrics(0, 0, 0, None)
    return [HandlerRow(each, *(span.get(each.name, none) for span in metrics)) for each in plugins.subscriptions]


def _read_metrics(settings: Settings, engine: Engine) -> tuple[Metrics, Metrics] | None:
    if settings.redis_url is None:
        return None
    try:
        with open_queues(settings, engine, timeout=REDIS_TIMEOUT) as connection:
            return read_handler_metrics(connection, utc_now())
    except (RedisError, OSError, SQLAlchemyError, WebhooksError):
        return None


def _number(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _of(span: str, seen: Callable[[HandlerRow], HandlerMetrics | None]) -> dict[str, Callable[[HandlerRow], Value]]:
    def field(read: Callable[[HandlerMetrics], Value]) -> Callable[[HandlerRow], Value]:
        return lambda row: None if (metrics := seen(row)) is None else read(metrics)

    return {
        f"runs_{span}": field(lambda metrics: metrics.ended),
        f"dead_{span}": field(lambda metrics: metrics.dead),
        f"again_{span}": field(lambda metrics: metrics.again),
        f"success_{span}": field(lambda metrics: _number(metrics.success)),
        f"p95_seconds_{span}": field(lambda metrics: None if metrics.p95 is None else metrics.p95.total_seconds()),
    }


def _metrics_text(metrics: HandlerMetrics | None) -> Cell:
    if metrics is None:
        return None
    if not metrics.ended and not metrics.again:
        return "no runs"
    parts = [pluralize(metrics.ended, "run")]
    if metrics.success is not None:
        # Rounded down: 99.96 % are not all.
        parts.append(f"{floor(metrics.success * 1000) / 10:g} % well")
    if metrics.dead:
        parts.append(f"{metrics.dead:,} dead")
    if metrics.again:
        parts.append(f"{metrics.again:,} tried again")
    if metrics.p95 is not None:
        parts.append(f"p95 within {human_duration(metrics.p95)}")
    return Text(", ".join(parts), style="bold red" if metrics.dead else "")


HANDLERS = Listing[HandlerRow](
    fields={
        **attributes(handler="handler.name"),
        "events": lambda row: _events(row.handler),
        **attributes(
            queue="handler.queue",
            records="handler.records",
            healed="handler.healed",
            plugin="handler.plugin",
            file="handler.file",
        ),
        **_of("24h", lambda row: row.day),
        **_of("7d", lambda row: row.week),
    },
    columns={
        "handler": "handler",
        "events": lambda row: " ".join([*_events(row.handler), *(["or healed"] if row.handler.healed else [])]),
        "queue": lambda row: "before all handlers" if row.handler.records else row.handler.queue or "with its batch",
        "last 24 hours": lambda row: _metrics_text(row.day),
        "last 7 days": lambda row: _metrics_text(row.week),
        "file": lambda row: _relative(row.handler.file),
    },
    order="first",
)


POLICIES = Listing[Policy](
    fields=attributes(policy="name", order="order", plugin="plugin", file="file"),
    columns={
        "policy at the charger": "policy",
        "order": "order",
        "file": lambda each: _relative(each.file),
    },
    order="first",
)


def _find_handlers(stores: Stores, _wanted: Selection) -> Sequence[HandlerRow]:
    return handler_rows(stores.settings, stores.ledger.engine, load_plugins(stores.settings, renders=False))


HANDLER_QUERY = ListQuery[HandlerRow](
    name="handlers",
    title="Handlers",
    hint="What handles what, on which queue, and how it went. A run that is tried again is counted when it has ended; "
    "p95 is the time within which 95 of 100 attempts ended.",
    listing=HANDLERS,
    find=_find_handlers,
)
