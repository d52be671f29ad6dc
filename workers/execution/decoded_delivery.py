"""A delivery and the event of its body, or why it has none.

request -> envelope -> inbox -> relay -> jobs -> [decoded delivery] -> handler -> ledger
"""

from collections.abc import Collection
from dataclasses import dataclass

from ingest.errors import Unreadable
from ingest.events import Event, decode
from ingest.queue.batch import Delivery
from ingest.wire.envelope import Kind
from workers.execution.run_result import RunResult, result_of
from workers.ledger.states import WHOLE_DELIVERY, DeliveryState, Outcome


@dataclass(frozen=True)
class DecodedDelivery:
    """A delivery and the event of its body, or why it has none."""

    delivery: Delivery
    event: Event | None
    reason: str | None = None
    is_erased: bool = False
    """Its session was erased before it came."""

    @classmethod
    def of(cls, delivery: Delivery, erased: Collection[str] = ()) -> "DecodedDelivery":
        """Decode the body of a delivery."""
        if delivery.id in erased:
            return cls(delivery, None, is_erased=True)
        try:
            return cls(delivery, decode(Kind(delivery.kind), delivery.body or b""))
        except Unreadable as unreadable:
            return cls(delivery, None, str(unreadable))

    @property
    def state(self) -> tuple[DeliveryState, str | None]:
        """The state in which the delivery enters the ledger, and the reason if it is unreadable."""
        return (DeliveryState.RUNNING if self.is_understood else DeliveryState.UNREADABLE), self.reason

    @property
    def is_understood(self) -> bool:
        """Whether nothing more is to be learned of it."""
        return self.event is not None or self.is_erased

    def ignored(self) -> RunResult:
        """Return the outcome of a delivery that no plugin takes."""
        reason = "its session was erased" if self.is_erased else "no handler takes it"
        return result_of(self.delivery, WHOLE_DELIVERY, 0, Outcome.IGNORED, reason)
