from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from handlers import on
from handlers.kit.subscriptions import MARK
from handlers.session_records import session_record
from ingest.events import Event, SessionStarted
from workers.execution.replay import plan_replay
from workers.ledger.deliveries import DeliveryRow
from workers.ledger.runs import RunRecord
from workers.ledger.states import WHOLE_DELIVERY, DeliveryState, Outcome
from workers.plugins import Plugins

NOON = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)
STARTED = b'{"event": "SESSION_STARTED", "payload": {"sessionId": "s", "timestamp": "2026-05-04T12:00:00Z"}}'
UNKNOWN = b'{"event": "SESSION_PAINTED", "payload": {}}'


@on(SessionStarted)
def greet(event: SessionStarted, ctx: object) -> None:
    """Do nothing."""


@on(SessionStarted, queue="urgent")
def hurry(event: SessionStarted, ctx: object) -> None:
    """Do nothing."""


def plugins(*functions: Callable[..., object]) -> Plugins:
    return Plugins(tuple(getattr(function, MARK) for function in functions))


def row(body: bytes = STARTED, **outcomes: Outcome) -> DeliveryRow:
    return DeliveryRow(
        id="d1",
        kind="events",
        event=None,
        session_id=None,
        received_at=NOON,
        signed_with="current",
        signed_at=None,
        headers={},
        inbox="i",
        state=DeliveryState.SETTLED,
        reason=None,
        stored_at=NOON,
        settled_at=NOON,
        duplicates=0,
        runs=tuple(run(name, outcome) for name, outcome in outcomes.items()),
        body=body,
    )


def run(name: str, outcome: Outcome) -> RunRecord:
    return RunRecord(delivery_id="d1", handler=name, queue="sessions", outcome=outcome, attempts=1)


ALL = plugins(session_record, greet, hurry)


@pytest.mark.parametrize(
    ("runs", "handler", "again", "first"),
    [
        ({}, None, set(), {"session_record", "greet", "hurry"}),
        ({"greet": Outcome.DONE}, None, {"greet"}, {"session_record", "hurry"}),
        ({"greet": Outcome.MOOT, "hurry": Outcome.DONE}, None, {"greet", "hurry"}, {"session_record"}),
        ({"greet": Outcome.DONE, "hurry": Outcome.DEAD}, None, {"hurry"}, set()),
        ({"greet": Outcome.DONE, "hurry": Outcome.DEAD}, "greet", {"greet"}, set()),
        ({"greet": Outcome.DONE, "hurry": Outcome.DEAD}, "hurry", {"hurry"}, set()),
        ({"greet": Outcome.DONE}, "hurry", set(), {"hurry"}),
        ({"greet": Outcome.AGAIN, "hurry": Outcome.RUNNING}, None, set(), {"session_record"}),
        ({"greet": Outcome.WAITING}, "greet", set(), set()),
    ],
)
def test_dead_runs_are_replayed_alone_and_otherwise_all_handlers_of_the_event(runs, handler, again, first):
    decided = plan_replay(row(**runs), ALL, handler)

    assert decided.is_understood
    assert set(decided.again) == again
    assert set(decided.first) == first


def test_poison_is_handled_by_a_replay():
    decided = plan_replay(row(**{WHOLE_DELIVERY: Outcome.DEAD}), ALL)

    assert set(decided.first) == {"session_record", "greet", "hurry"}
    assert decided.withdraws


def test_only_the_wanted_handler_runs_on_poison_which_stays_dead():
    decided = plan_replay(row(**{WHOLE_DELIVERY: Outcome.DEAD}), ALL, "greet")

    assert decided.handlers == ("greet",)
    assert not decided.withdraws


def test_an_ignored_event_runs_once_a_handler_takes_it():
    @on(Event)
    def listen(event: Event, ctx: object) -> None:
        """Do nothing."""

    ignored = row(UNKNOWN, **{WHOLE_DELIVERY: Outcome.IGNORED})

    assert plan_replay(ignored, plugins(listen)).withdraws
    assert plan_replay(ignored, plugins(listen)).first == ("listen",)
    assert plan_replay(ignored, plugins(greet)).handlers == ()
    assert not plan_replay(ignored, plugins(greet)).is_ignored


def test_a_decoded_event_without_a_handler_is_ignored():
    assert plan_replay(row(UNKNOWN), plugins(greet)).is_ignored
    assert not plan_replay(row(UNKNOWN), plugins(greet), "greet").is_ignored


def test_dead_runs_of_a_missing_handler_are_not_replayed():
    decided = plan_replay(row(gone=Outcome.DEAD, greet=Outcome.DONE), ALL)

    assert decided.unloaded == ("gone",)
    assert decided.handlers == ()


def test_an_unreadable_delivery_is_not_replayed():
    assert not plan_replay(row(b"{", greet=Outcome.DEAD), ALL).is_understood
