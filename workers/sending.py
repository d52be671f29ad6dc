"""Send the pushes that wait: claimed in one transaction, sent outside of any, marked in another."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial

import structlog
from sqlalchemy import Connection

from workers.equipment import Equipment
from workers.ledger import pushes
from workers.ledger.outcomes import PushState
from workers.ledger.pushes import PushRow
from workers.ledger.transaction import transact
from workers.push.channel import PushFailed
from workers.retry import RetryPolicy
from workers.run import call, now

log = structlog.get_logger()

CLAIMED_FOR = timedelta(seconds=30)
"""How long a push is left to who claimed it. If they die meanwhile, it is sent again, and folded on the phone."""

AT_ONCE = 100


def send_due(equipment: Equipment) -> int:
    """Send what is due, on each push's channel, and return how many were handed on."""
    sent = 0
    while claimed := transact(equipment.engine, _claim):
        endings = [_send(equipment, push) for push in claimed]
        transact(equipment.engine, partial(_mark, endings=endings))
        sent += sum(ending.state is PushState.SENT for ending in endings)
        if len(claimed) < AT_ONCE:
            break
    return sent


@dataclass(frozen=True)
class Ending:
    """What came of one attempt to send a push."""

    push: PushRow
    state: PushState
    sent_at: datetime | None = None
    due_at: datetime | None = None
    error: str | None = None

    def write(self, ledger: Connection) -> None:
        """Write it, unless somebody else has claimed the push meanwhile."""
        pushes.mark(
            ledger,
            self.push.id,
            self.state,
            attempt=self.push.attempts,
            sent_at=self.sent_at,
            due_at=self.due_at,
            error=self.error,
        )


def _claim(ledger: Connection) -> list[PushRow]:
    due = [push.id for push in pushes.claimable(ledger, now(), limit=AT_ONCE)]
    return pushes.claim(ledger, due, now(), CLAIMED_FOR)


def _mark(ledger: Connection, endings: Sequence[Ending]) -> None:
    for ending in endings:
        ending.write(ledger)


def _send(equipment: Equipment, push: PushRow) -> Ending:
    failure = _hand_on(equipment, push)
    if failure is None:
        return Ending(push, PushState.SENT, sent_at=now())
    due_at = RetryPolicy.of(equipment.settings).next_at(push.attempts, now()) if failure.retryable else None
    ending = Ending(push, PushState.WAITING if due_at else PushState.DEAD, due_at=due_at, error=str(failure))
    log.warning("push.failed", push=push.id, channel=push.channel, state=ending.state, reason=str(failure))
    return ending


def _hand_on(equipment: Equipment, push: PushRow) -> PushFailed | None:
    channel = equipment.channels.get(push.channel)
    if channel is None:
        return PushFailed(f"PUSH does not name the channel {push.channel}", retryable=False)
    _, failure = call(channel.send, push)
    if failure is None or isinstance(failure, PushFailed):
        return failure
    return PushFailed(f"the channel broke: {type(failure).__name__}", retryable=True)
