"""Lists of handlers and of policies."""

from collections.abc import Sequence
from pathlib import Path

from handlers.kit.policies import Policy
from handlers.kit.subscriptions import Subscription
from workers.lists.list_query import ListQuery, Selection, Stores
from workers.lists.listing import Listing, attributes
from workers.plugins import load_plugins


def _events(each: Subscription) -> list[str]:
    return [event.wire_name or event.__name__ for event in each.events]


def _relative(file: str) -> str:
    path = Path(file)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else file


HANDLERS = Listing[Subscription](
    fields={
        **attributes(handler="name"),
        "events": _events,
        **attributes("queue", "records", "plugin", "file"),
    },
    columns={
        "handler": "handler",
        "events": lambda each: " ".join(_events(each)),
        "queue": lambda each: "before all handlers" if each.records else each.queue or "with its batch",
        "file": lambda each: _relative(each.file),
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


def _find_handlers(stores: Stores, wanted: Selection) -> Sequence[Subscription]:  # noqa: ARG001 - a list has filters
    return load_plugins(stores.settings).subscriptions


HANDLER_QUERY = ListQuery[Subscription](
    name="handlers",
    title="Handlers",
    hint="What handles what, on which queue.",
    listing=HANDLERS,
    find=_find_handlers,
)
