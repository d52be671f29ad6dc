"""Plays one charging session over HTTP, with everything that goes wrong in a real one, and reads its state."""

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
from ingest.simulator.drive.state import SessionState
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
from workers.dev.drive_simulator import push_sessions
from workers.ledger import deliveries, pushes, sessions
from workers.ledger.database.engine import create_ledger_engine, read_only
from workers.ledger.deliveries import DeliveryFilters, DeliveryRow
from workers.ledger.pushes import PushRow
from workers.ledger.states import DeliveryState, PushState

TIMEOUT = timedelta(seconds=30)
POLL_INTERVAL = timedelta(milliseconds=100)
OPERATOR_TIMEOUT = timedelta(seconds=20)
"""How long the clock has for reading the new session from the Drive API: the warning then names the operator."""


@dataclass(frozen=True)
class DemoStep:
    """An event to send, how long ago it happened, and a remark for the reader."""

    name: str
    ago: timedelta
    remark: str


BEFORE_WARNING = (
    DemoStep(STARTED, timedelta(minutes=95), "a driver plugs in"),
    DemoStep(STARTED, timedelta(minutes=95), "the same bytes again"),
    DemoStep(FEE_INCURRING, timedelta(minutes=2), "a fee is near"),
)
AFTER_WARNING = (
    DemoStep(UNKNOWN_EVENT, timedelta(minutes=1), "an unknown event"),
    DemoStep(COMPLETE, timedelta(), "the session is over"),
    DemoStep(STOPPED, timedelta(seconds=30), "late: it happened before that"),
)
EVENTS = len({step.name for step in (*BEFORE_WARNING, *AFTER_WARNING)})


@dataclass(frozen=True)
class DemoState:
    """The session in the ledger at one moment."""

    session_id: str
    status: str | None
    deliveries: tuple[DeliveryRow, ...]
    pushes: tuple[PushRow, ...]
    operator: str | None = None

    def findings(self) -> dict[str, bool]:
        """Return what should be true at the end, and whether it is."""
        states = {row.event: row.state for row in self.deliveries}
        return {
            f"every event is in the ledger and settled ({EVENTS})": len(states) == EVENTS
            and set(states.values()) == {DeliveryState.SETTLED},
            "the session is COMPLETE, although its stop came after its end": self.status == "COMPLETE",
            "one warning went to the driver, once": [push.state for push in self.pushes] == [PushState.SENT],
            "the repeated event was recognised": sum(row.duplicates for row in self.deliveries) == 1,
            "the unknown event was kept": states.get(UNKNOWN_EVENT) is DeliveryState.SETTLED,
        }


async def play(
    settings: Settings, url: str, print_line: Callable[[str], None], drive_url: str | None = None
) -> DemoState:
    """Send the session's events to the receiver at `url`, print each response, and wait until all is processed.

    The simulated Drive API at `drive_url` knows the session, so the warning can name the operator. Returns the last
    state: all its findings are true, or the timeout is over.
    """
    participants = random_participants(SystemRandom())
    keys = Keyring(settings).keys
    sign = SigningKeyChoice.CURRENT if keys.current else SigningKeyChoice.NEXT if keys.next else SigningKeyChoice.NONE
    signer = RequestSigner(keys, sign, required=settings.plugsurfing_hmac_required)
    now = datetime.now(UTC)
    engine = create_ledger_engine(settings.database_url)
    try:
        with closing(KeepAliveConnection(url)) as connection:

            async def send(step: DemoStep) -> None:
                planned = PlannedRequest(make_event(step.name, participants, now - step.ago))
                print_line(format_exchange(step, await post(connection, signer.request(planned, at=datetime.now(UTC)))))

            minutes = BEFORE_WARNING[0].ago // timedelta(minutes=1)
            print_line(f"Plugsurfing sends the events of a session that began {minutes} minutes ago:")
            if drive_url is not None:
                running = SessionState(
                    participants.session_id, participants.user_id, "STARTED", now - BEFORE_WARNING[0].ago
                )
                await asyncio.to_thread(push_sessions, drive_url, [running])
            for step in BEFORE_WARNING:
                if step.name == FEE_INCURRING and drive_url is not None:
                    await wait_for_state(
                        engine, participants, lambda state: state.operator is not None, OPERATOR_TIMEOUT
                    )
                await send(step)
            # A session that is over needs no warning, so its end waits for the push.
            await wait_for_state(
                engine, participants, lambda state: any(push.state is PushState.SENT for push in state.pushes)
            )
            for step in AFTER_WARNING:
                await send(step)
        return await wait_for_state(engine, participants, lambda state: all(state.findings().values()))
    finally:
        engine.dispose()


def format_exchange(step: DemoStep, response: SimulatorResponse) -> str:
    """Format a request and its response on one line."""
    outcome = "known" if response.duplicate else "kept" if response.is_expected else "not kept"
    took = f"{response.took.total_seconds() * 1000:.0f} ms"
    return f"{step.name:<21} → {response.status or response.problem} {outcome:<5} {took:>6}  {step.remark}"


async def wait_for_state(
    engine: Engine, participants: Participants, is_done: Callable[[DemoState], bool], limit: timedelta = TIMEOUT
) -> DemoState:
    """Poll the ledger until a state is what is waited for, or the timeout is over; return the last state."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + limit.total_seconds()
    while True:
        state = await asyncio.to_thread(read_state, engine, participants)
        if is_done(state) or loop.time() > deadline:
            return state
        await asyncio.sleep(POLL_INTERVAL.total_seconds())


def read_state(engine: Engine, participants: Participants) -> DemoState:
    """Read the session from the ledger."""
    session_id = participants.session_id
    with read_only(engine) as ledger:
        session = sessions.get(ledger, session_id)
        return DemoState(
            session_id=session_id,
            status=session.status if session else None,
            deliveries=tuple(deliveries.find(ledger, DeliveryFilters(session_id=session_id), None)),
            pushes=tuple(pushes.find(ledger, session_id=session_id)),
            operator=session.operator if session else None,
        )
