"""Commands of the simulated Drive API: `send` pushes sessions to it, `compare` reads them, `spoil` sets faults."""

import json
import threading
from collections.abc import Callable, Iterator
from functools import partial

import pytest
import uvicorn

from handlers.kit.merge import merge
from handlers.session_records import session_of
from ingest.events import decode
from ingest.simulator import sender
from ingest.simulator.drive.drive_app import create_drive
from ingest.simulator.drive.drive_faults import DriveFault, DriveFaults
from ingest.simulator.drive.state import DriveState, state_from_scenario
from ingest.simulator.scenarios import Participants, build_scenario
from workers.ledger import sessions


@pytest.fixture
def state() -> DriveState:
    return DriveState()


@pytest.fixture
def faults() -> DriveFaults:
    return DriveFaults()


@pytest.fixture
def url(state: DriveState, faults: DriveFaults, until: Callable[..., None]) -> Iterator[str]:
    server = uvicorn.Server(uvicorn.Config(create_drive(state, faults), port=0, log_config=None))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until(lambda: server.started)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/drive"
    server.should_exit = True
    thread.join()


@pytest.fixture
def learn(node, noon):
    """Merge so many of a session's events into the ledger."""

    def learn(session_id: str, events: int) -> None:
        with node.engine.begin() as ledger:
            for event in build_scenario("session", Participants(session_id, "user-1"), now=noon)[:events]:
                fact = session_of(decode(event.kind, event.body))
                sessions.merge(ledger, {session_id: partial(merge, fact)})

    return learn


@pytest.fixture
def happened(state: DriveState, noon) -> None:
    for number in range(3):
        state.apply(
            filter(
                None, [state_from_scenario(build_scenario("session", Participants(f"S{number}", "user-1"), now=noon))]
            )
        )


def test_the_simulator_knows_sessions_whose_events_are_all_dropped(
    node, state: DriveState, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def send(*_parts: object, **_named: object) -> None:
        """Send nothing."""

    monkeypatch.setattr(sender, "send", send)
    asked = ("--count", "20", "--seed", "7", "--users", "3", "--fault", "drop", "--share", "1", "--drive", url)
    assert "every event was dropped" in node.run("send", "session", *asked).stdout
    assert len(state.sessions) == 20
    assert len({session.user_id for session in state.sessions.values()}) == 3


@pytest.mark.usefixtures("happened")
def test_the_ledger_is_compared_with_what_really_happened(node, learn, url: str) -> None:
    learn("S0", 3)
    learn("S1", 1)
    result = node.run("drive", "compare", "--drive", url, code=1)
    assert result.stdout.splitlines() == [
        "S1 differs in stopped_at, completed_at, status",
        "S2 is not known",
        "3 sessions: 1 equal (0 of them thanks to the Drive API), 1 differ, 1 unknown",
    ]
    assert "2 of 3 sessions are not as they really were" in result.stderr
    learn("S1", 3)
    learn("S2", 3)
    (row,) = node.rows("drive", "compare", "--drive", url, "--wait", "20s")
    assert row["seconds"] is not None
    assert (row["sessions"], row["equal"], row["unknown"]) == (3, 3, 0)


@pytest.mark.usefixtures("happened")
def test_a_comparison_waits_until_all_are_equal(node, learn, url: str) -> None:
    learn("S0", 3)
    learn("S1", 3)
    late = threading.Timer(0.5, learn, ("S2", 3))
    late.start()
    assert "3 equal" in node.run("drive", "compare", "--drive", url, "--wait", "60s").stdout
    late.join()


def test_faults_are_changed_while_it_runs(node, url: str, faults: DriveFaults) -> None:
    node.run("drive", "spoil", "500:0.5,lost", "--drive", url)
    assert faults.rates == {DriveFault.BROKEN: 0.5, DriveFault.LOST: 0.2}
    node.run("drive", "spoil", "--drive", url)
    assert faults.rates == {}
    assert "Choose faults from" in node.run("drive", "spoil", "504", "--drive", url, code=2).stderr


def test_without_a_simulated_drive_api_nothing_is_pushed_or_compared(node) -> None:
    assert "No `webhooks dev`" in node.run("drive", "compare", code=2).stderr
    shown = node.run("send", "session", "--print").stdout
    assert len(shown.splitlines()) == 3


def test_a_url_without_a_simulator_is_an_error(node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.dev.drive_simulator.STARTUP_TIMEOUT", 0)
    said = node.run("drive", "compare", "--drive", "http://127.0.0.1:9/drive", code=1).stderr
    assert "There is no simulated Drive API" in said


def test_json_is_one_object(node, url: str, state: DriveState) -> None:
    text = node.run("drive", "compare", "--drive", url, "--json").stdout
    assert json.loads(text)["sessions"] == len(state.sessions) == 0
