"""Send the pushes that wait: claimed in one transaction, sent outside of any, marked in another."""

from datetime import timedelta

import structlog

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
    claimed = transact(
        equipment.engine,
        lambda ledger: pushes.claim(
            ledger, [push.id for push in pushes.claimable(ledger, now(), limit=AT_ONCE)], now(), CLAIMED_FOR
        ),
    )
    return sum(_send(equipment, push) for push in claimed)


def _send(equipment: Equipment, push: PushRow) -> bool:
    failure = _hand_on(equipment, push)
    sent_at = None if failure else now()
    due_at = RetryPolicy.of(equipment.settings).next_at(push.attempts, now()) if failure and failure.retryable else None
    if failure is None:
        state = PushState.SENT
    else:
        state = PushState.WAITING if due_at else PushState.DEAD
        log.warning("push.failed", push=push.id, channel=push.channel, state=state, reason=str(failure))
    transact(
        equipment.engine,
        lambda ledger: pushes.mark(
            ledger,
            push.id,
            state,
            attempt=push.attempts,
            sent_at=sent_at,
            due_at=due_at,
            error=None if failure is None else str(failure),
        ),
    )
    return failure is None


def _hand_on(equipment: Equipment, push: PushRow) -> PushFailed | None:
    channel = equipment.channels.get(push.channel)
    if channel is None:
        return PushFailed(f"PUSH does not name the channel {push.channel}", retryable=False)
    _, failure = call(channel.send, push)
    if failure is None or isinstance(failure, PushFailed):
        return failure
    return PushFailed(f"the channel broke: {type(failure).__name__}", retryable=True)
