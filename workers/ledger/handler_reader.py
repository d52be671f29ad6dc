"""What handlers read, each time in a short transaction of its own: the ledger, and the devices of a user."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog

from handlers.kit.channel import Device
from workers.ledger.reader import LedgerReader
from workers.resilience.guarded_call import HandlerTimedOut, call_guarded

log = structlog.get_logger()


@dataclass(frozen=True)
class HandlerReader(LedgerReader):
    """The reader behind a handler's context."""

    devices_of: Callable[[str], Sequence[Device]]

    def devices(self, user_id: str) -> Sequence[Device]:
        """List a user's devices; none if they cannot be found: words in a foreign language are better than none."""
        found, failure = call_guarded(self.devices_of, user_id)
        if isinstance(failure, HandlerTimedOut):
            raise failure
        if failure is not None:
            log.warning("devices.not_found", reason=type(failure).__name__)
        return found or ()
