"""Finds out whether the ledger, the inbox and Redis agree with each other: nothing lost, nothing stuck."""

from collections.abc import Iterator, Sequence
from datetime import timedelta

from redis.exceptions import RedisError
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from handlers.kit.subscriptions import Subscription
from ingest.config.settings import Settings
from ingest.errors import QueueUnavailable, SettingsError
from ingest.events import WIRE_NAMES
from ingest.queue.queues import connect_redis
from ingest.relay.outbox import Outbox
from workers.commands.check.basics import CheckResult, CheckStatus
from workers.commands.errors import Failure, error_text
from workers.commands.output import human_duration
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
from workers.ledger.database.engine import read_only
from workers.ledger.invariants import EXAMPLES, ROLLOUT, Violation, check_invariants, missed_handlers
from workers.plugins import PluginError, load_plugins


def check_consistency(settings: Settings, *, rollout: timedelta = ROLLOUT) -> Iterator[CheckResult]:
    """Look for what must never be. Takes a while on a large ledger, and up to ten seconds while work is under way.

    Not every worker need know a handler until `rollout` after its first run.
    """
    try:
        with open_ledger(settings) as engine, open_inbox(settings) as outbox:
            yield from _ledger(settings, engine, rollout)
            yield from _left(engine, outbox)
            yield from _ways(settings, engine, outbox)
    except (DBAPIError, Failure) as error:
        yield CheckResult("ledger", CheckStatus.FAIL, f"{error_text(error)} So it cannot be looked into.")


def _ledger(settings: Settings, engine: Engine, rollout: timedelta) -> Iterator[CheckResult]:
    with read_only(engine) as ledger:
        broken = list(check_invariants(ledger))
        for each in broken:
            yield CheckResult("ledger", CheckStatus.FAIL, f"Broken: {each.rule}. {_violation(each)}")
        if not broken:
            yield CheckResult("ledger", CheckStatus.OK, "It contradicts itself nowhere.")
        try:
            wanted = {each.name: _taken(each) for each in load_plugins(settings).subscriptions}
        except PluginError as error:
            yield CheckResult("plugins", CheckStatus.FAIL, str(error))
            return
        for each in missed_handlers(ledger, wanted, rollout=rollout):
            # Only a person knows whether the handler was switched off then.
            told = f"{each.rule}: it was not loaded then, or they were lost. {_violation(each)}"
            told += " `webhooks replay` makes up."
            yield CheckResult("handlers", CheckStatus.WARN, told)


def _left(engine: Engine, outbox: Outbox | None) -> Iterator[CheckResult]:
    with read_only(engine) as ledger:
        theirs, late = other_inboxes(ledger, outbox), list(overdue_pushes(ledger))
    if theirs is not None:
        # Only a person knows whether those nodes are away for a while, or their inboxes for good.
        told = f"For more than {human_duration(MAX_FIRST_RUN)} at work by other inboxes ({', '.join(theirs.inboxes)})"
        replayed = "If these are no more, `webhooks replay` makes up."
        yield CheckResult("ways", CheckStatus.WARN, f"{told}: {_some(theirs.examples, theirs.count)}. {replayed}")
    for each in late:
        have = "has" if each.count == 1 else "have"
        told = f"{each.count} on {each.channel} {have} been due for up to {human_duration(each.due_for)}"
        told += f", first {each.oldest}"
        yield CheckResult("pushes", CheckStatus.WARN, f"{told}: is `clock` running, and does the channel answer?")


def _ways(settings: Settings, engine: Engine, outbox: Outbox | None) -> Iterator[CheckResult]:
    try:
        with connect_redis(settings.require_redis()) as connection:
            connection.ping()
            found = find_stuck(engine, connection, outbox)
    except (QueueUnavailable, RedisError, SettingsError) as error:
        yield CheckResult("ways", CheckStatus.FAIL, f"{error_text(error)} So nobody knows what is queued.")
        return
    lost = [each.name for each in found if each.reason is StuckReason.LOST]
    if lost:
        yield CheckResult("inbox", CheckStatus.FAIL, _told_of_lost(lost))
    for each in found:
        if each.reason is not StuckReason.LOST:
            yield CheckResult(
                "ways", CheckStatus.FAIL, f"For {REDELIVERY_DEADLINE.seconds} s {each.reason}: {each.name}."
            )
    if not found:
        where = "" if outbox is not None else " (There is no inbox in DATA_DIR.)"
        yield CheckResult("ways", CheckStatus.OK, f"What is not settled is queued, worked on or scheduled.{where}")


def _told_of_lost(ids: Sequence[str]) -> str:
    number = f"{len(ids)} or more" if len(ids) == MAX_ROWS else str(len(ids))
    return (
        f"Known to the inbox, and neither there nor in the ledger, {number}: {_some(ids, len(ids))}."
        " Was an older database restored, or does somebody else write to Redis?"
    )


def _taken(subscription: Subscription) -> list[str]:
    return [name for name, event in WIRE_NAMES.items() if issubclass(event, subscription.events)]


def _violation(broken: Violation) -> str:
    return f"Not so: {_some(broken.examples, broken.count)}."


def _some(ids: Sequence[str], count: int) -> str:
    more = f" and {count - EXAMPLES} more" if count > EXAMPLES else ""
    return f"{', '.join(ids[:EXAMPLES])}{more}"
