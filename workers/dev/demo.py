"""Play one charging session over HTTP, with everything that goes wrong in a real one, and watch what becomes of it."""

import asyncio
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from random import SystemRandom

from sqlalchemy import Engine

from ingest.config.keyring import Keyring
from ingest.config.settings import Settings
from ingest.simulator.connection import KeepAliveConnection
from ingest.simulator.faults import PlannedRequest
from ingest.simulator.requests import RequestSigner, SigningKeyChoice
from ingest.simulator.scenarios import (
    COMPLETE,
    FEE_INCURRING,
    STARTED,
    STOPPED,
    UNKNOWN_EVENT,
    Participants,
    make_event,
    random_participants,
)
from ingest.simulator.sender import SimulatorResponse, post
from workers.ledger import deliveries, pushes, sessions
from workers.ledger.database.engine import create_ledger_engine, read_only
from workers.ledger.deliveries import DeliveryFilters, DeliveryRow
from workers.ledger.pushes import PushRow
from workers.ledger.states import DeliveryState, PushState

PATIENCE = timedelta(seconds=30)
LOOK_EVERY = timedelta(milliseconds=100)


@dataclass(frozen=True)
class DemoStep:
    """Something to be told, how long ago it happened, and what a watcher should know about it."""

    name: str
    ago: timedelta
    remark: str


WARNED = (
    DemoStep(STARTED, timedelta(minutes=95), "a driver plugs in"),
    DemoStep(STARTED, timedelta(minutes=95), "the same bytes again"),
    DemoStep(FEE_INCURRING, timedelta(minutes=2), "a fee is near"),
)
OVER = (
    DemoStep(UNKNOWN_EVENT, timedelta(minutes=1), "a word nobody knows"),
    DemoStep(COMPLETE, timedelta(), "the session is over"),
    DemoStep(STOPPED, timedelta(seconds=30), "late: it was before that"),
)
TOLD = len({beat.name for beat in (*WARNED, *OVER)})


@dataclass(frozen=True)
class DemoState:
    """What the ledger knows of the session at one moment."""

    session_id: str
    status: str | None
    deliveries: tuple[DeliveryRow, ...]
    pushes: tuple[PushRow, ...]

    def findings(self) -> dict[str, bool]:
        """Say what should have come true, and whether it has."""
        states = {row.event: row.state for row in self.deliveries}
        return {
            f"every event is in the ledger and settled ({TOLD})": len(states) == TOLD
            and set(states.values()) == {DeliveryState.SETTLED},
            "the session is COMPLETE, although its stop came after its end": self.status == "COMPLETE",
            "one warning went to the driver, once": [push.state for push in self.pushes] == [PushState.SENT],
            "the repeated event was recognised": sum(row.duplicates for row in self.deliveries) == 1,
            "the unknown event was kept": states.get(UNKNOWN_EVENT) is DeliveryState.SETTLED,
        }


async def play(settings: Settings, url: str, say: Callable[[str], None]) -> DemoState:
    """Tell the session to the receiver at `url`, each answer in a line to `say`, and wait until all is done.

    Returns what was seen last: all its findings are true, or patience has ended.
    """
    cast = random_participants(SystemRandom())
    keys = Keyring(settings).keys
    sign = SigningKeyChoice.CURRENT if keys.current else SigningKeyChoice.NEXT if keys.next else SigningKeyChoice.NONE
    penmanship = RequestSigner(keys, sign, required=settings.plugsurfing_hmac_required)
    now = datetime.now(UTC)
    engine = create_ledger_engine(settings.database_url)
    try:
        with closing(KeepAliveConnection(url)) as connection:

            async def tell(beat: DemoStep) -> None:
                step = PlannedRequest(make_event(beat.name, cast, now - beat.ago))
                say(line(beat, await post(connection, penmanship.request(step, at=datetime.now(UTC)))))

            say(f"Plugsurfing tells of a session that began {WARNED[0].ago // timedelta(minutes=1)} minutes ago:")
            for beat in WARNED:
                await tell(beat)
            # A session that is over needs no warning, so its end waits for the push.
            await wait_for_state(engine, cast, lambda seen: any(push.state is PushState.SENT for push in seen.pushes))
            for beat in OVER:
                await tell(beat)
        return await wait_for_state(engine, cast, lambda seen: all(seen.findings().values()))
    finally:
        engine.dispose()


def line(beat: DemoStep, answer: SimulatorResponse) -> str:
    """Write one exchange on one line."""
    outcome = "known" if answer.duplicate else "kept" if answer.is_expected else "not kept"
    took = f"{answer.took.total_seconds() * 1000:.0f} ms"
    return f"{beat.name:<21} → {answer.status or answer.problem} {outcome:<5} {took:>6}  {beat.remark}"


async def wait_for_state(engine: Engine, cast: Participants, is_enough: Callable[[DemoState], bool]) -> DemoState:
    """Look at the ledger until what is seen is enough, or patience ends."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + PATIENCE.total_seconds()
    while True:
        seen = await asyncio.to_thread(look, engine, cast)
        if is_enough(seen) or loop.time() > deadline:
            return seen
        await asyncio.sleep(LOOK_EVERY.total_seconds())


def look(engine: Engine, cast: Participants) -> DemoState:
    """Read what the ledger knows of the session."""
    with read_only(engine) as conn:
        session = sessions.get(conn, cast.session_id)
        return DemoState(
            session_id=cast.session_id,
            status=session.status if session else None,
            deliveries=tuple(deliveries.find(conn, DeliveryFilters(session_id=cast.session_id), None)),
            pushes=tuple(pushes.find(conn, session_id=cast.session_id)),
        )
