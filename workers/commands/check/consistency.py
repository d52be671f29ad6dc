"""Checks that the ledger, the inbox and Redis agree with each other: nothing lost, nothing stuck."""

from collections.abc import Iterator, Sequence
from datetime import timedelta

from redis.exceptions import RedisError
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from handlers.kit.subscriptions import Subscription
from ingest.config.settings import Settings
from ingest.errors import QueueUnavailable, SettingsError
from ingest.events import models
from ingest.queue.process_registry import ProcessRegistry
from ingest.relay.outbox import Outbox
from workers.commands.check.check_result import CheckResult, fail, ok, warn
from workers.commands.check.processes import others_with_inbox
from workers.commands.errors import Failure, error_text
from workers.commands.stores import open_inbox, open_ledger
from workers.diagnostics.stuck import (
    MAX_FIRST_RUN,
    MAX_ROWS,
    REDELIVERY_DEADLINE,
    StuckReason,
    find_stuck,
    other_inboxes,
    overdue_pushes,
)
from workers.installation import open_queues
from workers.ledger.database.engine import read_only
from workers.ledger.invariants import EXAMPLES, ROLLOUT, Violation, check_invariants, missed_handlers
from workers.lists.formatting import human_duration
from workers.plugins import PluginError, load_plugins


def check_consistency(settings: Settings, *, rollout: timedelta = ROLLOUT) -> Iterator[CheckResult]:
    """Check invariants. Takes a while on a large ledger, and up to ten seconds while work is under way.

    Workers may lack a handler until `rollout` after its first run.
    """
    try:
        with open_ledger(settings) as engine, open_inbox(settings) as outbox:
            yield from _invariants(settings, engine, rollout)
            yield from _overdue(engine, outbox)
            yield from _stuck(settings, engine, outbox)
    except (DBAPIError, Failure) as error:
        yield fail("ledger", f"{error_text(error)} So it cannot be checked.")


def _invariants(settings: Settings, engine: Engine, rollout: timedelta) -> Iterator[CheckResult]:
    with read_only(engine) as ledger:
        broken = list(check_invariants(ledger))
        for each in broken:
            yield fail("ledger", f"Broken: {each.rule}. {_violation(each)}")
        if not broken:
            yield ok("ledger", "It is consistent.")
        try:
            wanted = {each.name: _event_names(each) for each in load_plugins(settings).subscriptions}
        except PluginError as error:
            yield fail("plugins", str(error))
            return
        for each in missed_handlers(ledger, wanted, rollout=rollout):
            # Only a person knows whether the handler was switched off then.
            why = "it was not loaded then, or they were lost"
            yield warn("handlers", f"{each.rule}: {why}. {_violation(each)} `webhooks replay` runs it on them.")


def _overdue(engine: Engine, outbox: Outbox | None) -> Iterator[CheckResult]:
    with read_only(engine) as ledger:
        theirs, late = other_inboxes(ledger, outbox), list(overdue_pushes(ledger))
    if theirs is not None:
        # Only a person knows whether those nodes are away for a while, or their inboxes for good.
        others = f"For more than {human_duration(MAX_FIRST_RUN)} at work by other inboxes ({', '.join(theirs.inboxes)})"
        hint = "If these inboxes are gone, run `webhooks replay`."
        yield warn("queues", f"{others}: {_some(theirs.examples, theirs.count)}. {hint}")
    for each in late:
        have = "has" if each.count == 1 else "have"
        late_for = f"{each.count} on {each.channel} {have} been due for up to {human_duration(each.due_for)}"
        hint = "is `clock` running, and does the channel answer?"
        yield warn("pushes", f"{late_for}, first {each.oldest}: {hint}")


def _stuck(settings: Settings, engine: Engine, outbox: Outbox | None) -> Iterator[CheckResult]:
    try:
        with open_queues(settings, engine) as connection:
            connection.ping()
            found = find_stuck(engine, connection, outbox)
            elsewhere = others_with_inbox(settings, ProcessRegistry(connection).processes())
    except (QueueUnavailable, RedisError, SettingsError) as error:
        yield fail("queues", f"{error_text(error)} So it is not known what is queued.")
        return
    lost = [each.name for each in found if each.reason is StuckReason.LOST]
    if lost:
        yield fail("inbox", _lost_text(lost))
    for each in found:
        if each.reason is not StuckReason.LOST:
            yield fail("queues", f"For {REDELIVERY_DEADLINE.seconds} s {each.reason}: {each.name}.")
    if elsewhere:
        yield fail("inbox", f"It is on {', '.join(elsewhere)}: run this there, with the DATA_DIR of `serve`.")
    elif not found:
        where = "" if outbox is not None else " (There is no inbox in DATA_DIR.)"
        yield ok("queues", f"What is not settled is queued, running or scheduled.{where}")


def _lost_text(ids: Sequence[str]) -> str:
    number = f"{len(ids)} or more" if len(ids) == MAX_ROWS else str(len(ids))
    return (
        f"Known to the inbox, and neither there nor in the ledger, {number}: {_some(ids, len(ids))}."
        " Was an older database restored, or does another program write to Redis?"
    )


def _event_names(subscription: Subscription) -> list[str]:
    return [name for name, event in models().items() if issubclass(event, subscription.events)]


def _violation(broken: Violation) -> str:
    return f"Violated by: {_some(broken.examples, broken.count)}."


def _some(ids: Sequence[str], count: int) -> str:
    more = f" and {count - EXAMPLES} more" if count > EXAMPLES else ""
    return f"{', '.join(ids[:EXAMPLES])}{more}"
