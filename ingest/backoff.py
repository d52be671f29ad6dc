"""Exponential backoff: how long to wait after a number of failures in a row."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta

import structlog

log = structlog.get_logger()

MAX_DOUBLINGS = 60


@dataclass(frozen=True)
class Backoff:
    """`first` after one failure, doubled with each further one up to `longest`."""

    first: timedelta
    longest: timedelta

    def delay(self, failures: int, *, jitter: float | None = None) -> timedelta:
        """Return the wait after so many failures in a row, 1 or more.

        Jitter, a random number from 0 to 1 unless it is given, takes up to half of the wait away, so that what failed
        together does not come back together.
        """
        drawn = random.random() if jitter is None else jitter  # noqa: S311 - spreads load, guards no secret
        seconds = self.first.total_seconds() * 2.0 ** min(failures - 1, MAX_DOUBLINGS)
        return timedelta(seconds=min(seconds, self.longest.total_seconds()) * (1 - drawn / 2))


RESTART = Backoff(timedelta(seconds=1), timedelta(minutes=1))


async def restart_forever(name: str, loop: Callable[[], Awaitable[None]], *, restart: Backoff = RESTART) -> None:
    """Run a loop of a server until it returns; when it fails, log that and begin it anew: nothing else waits for it."""
    failures = 0
    while True:
        try:
            return await loop()
        except Exception as error:  # noqa: BLE001 - whatever it is, such as no more threads, it may pass
            failures += 1
            log.error("loop.failed", loop=name, error=type(error).__name__)  # noqa: TRY400 - its text may be anything
            await asyncio.sleep(restart.delay(failures).total_seconds())
