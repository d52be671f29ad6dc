"""Finds out whether the ledger, the inbox and Redis agree with each other: nothing lost, nothing stuck."""

from collections.abc import Iterator

from redis.exceptions import RedisError
from sqlalchemy.exc import DBAPIError

from handlers.kit.subscribe import Subscription
from ingest.broker import connect
from ingest.errors import QueueUnavailable, SettingsError
from ingest.events import WIRE_NAMES
from ingest.settings import Settings
from workers.adrift import PROMISED, adrift
from workers.commands.checkup import Finding, Standing
from workers.commands.failures import Failure, sentence
from workers.commands.stores import inbox_of, ledger_of
from workers.ledger.contradictions import EXAMPLES, Contradiction, contradictions, passed_over
from workers.ledger.engine import reading
from workers.loader import PluginError, load_plugins


def examine_deeply(settings: Settings) -> Iterator[Finding]:
    """Look for what must never be. Takes a while on a large ledger, and up to ten seconds while work is under way."""
    try:
        yield from _ledger(settings)
        yield from _ways(settings)
    except (DBAPIError, Failure) as error:
        yield Finding("ledger", Standing.FAIL, f"{sentence(error)} So it cannot be looked into.")


def _ledger(settings: Settings) -> Iterator[Finding]:
    with ledger_of(settings) as engine, reading(engine) as ledger:
        broken = list(contradictions(ledger))
        for each in broken:
            yield Finding("ledger", Standing.FAIL, f"Broken: {each.rule}. {_those(each)}")
        if not broken:
            yield Finding("ledger", Standing.OK, "It contradicts itself nowhere.")
        try:
            wanted = {each.name: _taken(each) for each in load_plugins(settings).subscriptions}
        except PluginError as error:
            yield Finding("plugins", Standing.FAIL, str(error))
            return
        for each in passed_over(ledger, wanted):
            # Only a person knows whether the handler was switched off then.
            told = f"{each.rule}: it was not loaded then, or they were lost. {_those(each)} `webhooks replay` makes up."
            yield Finding("handlers", Standing.WARN, told)


def _ways(settings: Settings) -> Iterator[Finding]:
    try:
        with (
            connect(settings.require_redis()) as connection,
            ledger_of(settings) as engine,
            inbox_of(settings) as outbox,
        ):
            connection.ping()
            found = adrift(engine, connection, outbox)
    except (QueueUnavailable, RedisError, SettingsError) as error:
        yield Finding("ways", Standing.FAIL, f"{sentence(error)} So nobody knows what is queued.")
        return
    for each in found:
        yield Finding("ways", Standing.FAIL, f"For {PROMISED.seconds} s {each.trouble}: {each.name}.")
    if not found:
        where = "" if outbox is not None else " (There is no inbox in DATA_DIR.)"
        yield Finding("ways", Standing.OK, f"What is not settled is queued, worked on or scheduled.{where}")


def _taken(subscription: Subscription) -> list[str]:
    return [name for name, event in WIRE_NAMES.items() if issubclass(event, subscription.events)]


def _those(broken: Contradiction) -> str:
    more = f" and {broken.count - EXAMPLES} more" if broken.count > EXAMPLES else ""
    return f"Not so: {', '.join(broken.examples)}{more}."
