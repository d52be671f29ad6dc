"""Which calls of handlers repeat a healed event: one that the Drive API has told of before.

jobs -> [calls] -> handler, unless the run of a healed event stands for them
"""

from collections.abc import Iterable

from workers.execution.run_result import HandlerCall, RunResult, result_of
from workers.ledger import healed_events
from workers.ledger.runs import RunKey
from workers.ledger.states import Outcome


def healed_key(call: HandlerCall) -> RunKey | None:
    """Return the key of the run that would stand for this call, if the Drive API has told of its event before."""
    key = None if call.delivery.is_healed or not call.subscription.healed else healed_events.healed_id(call.event)
    return None if key is None else (key, call.subscription.name)


def healed_ids(calls: Iterable[HandlerCall]) -> dict[str, set[str]]:
    """Return the handlers of these calls by the delivery that the Drive API may have told of before."""
    wanted: dict[str, set[str]] = {}
    for key in filter(None, map(healed_key, calls)):
        wanted.setdefault(key[0], set()).add(key[1])
    return wanted


def moot_after_healing(call: HandlerCall) -> RunResult:
    """Return the result of a call that is not made, since the run of the healed event has begun before."""
    return result_of(call.delivery, call.subscription.name, call.attempt, Outcome.MOOT, healed_events.HEALED_BEFORE)
