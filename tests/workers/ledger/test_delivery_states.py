"""The state of a delivery follows from the outcomes of its runs."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from workers.ledger import deliveries, delivery_states, runs
from workers.ledger.runs import RunRecord
from workers.ledger.states import DeliveryState, Outcome, PushState

WAITING, RUNNING, AGAIN, DONE, DEAD, IGNORED, MOOT = Outcome


@pytest.mark.parametrize(
    ("outcomes", "state"),
    [
        ([], DeliveryState.SETTLED),
        ([DONE], DeliveryState.SETTLED),
        ([DONE, IGNORED, MOOT], DeliveryState.SETTLED),
        ([DONE, DEAD], DeliveryState.DEAD),
        ([DONE, WAITING], DeliveryState.RETRYING),
        ([DONE, RUNNING], DeliveryState.RETRYING),
        ([DEAD, AGAIN], DeliveryState.RETRYING),
        ([AGAIN, DEAD], DeliveryState.RETRYING),
    ],
)
def test_a_state_follows_from_the_outcomes(ledger, outcomes, state):
    ledger.store(ledger.delivery())
    for number, outcome in enumerate(outcomes):
        ledger.run("d1", f"handler_{number}", outcome)
    with ledger.begin() as conn:
        delivery_states.refresh_states(conn, ["d1", "unknown"])
        row = deliveries.get(conn, "d1")
    assert row.state is state
    assert (row.settled_at is not None) is state.is_ended


def test_many_deliveries_are_refreshed_each_on_its_own(ledger):
    ledger.store(*[ledger.delivery(f"d{number}") for number in range(4)])
    ledger.run("d1", "handler", Outcome.DEAD)
    ledger.run("d2", "handler", Outcome.AGAIN)
    with ledger.begin() as conn:
        delivery_states.refresh_states(conn, {"d0", "d1", "d2"})
    assert [ledger.state_of(f"d{number}") for number in range(4)] == ["settled", "dead", "retrying", "running"]


def test_an_unreadable_delivery_stays_so(ledger):
    ledger.store(ledger.delivery(), state=DeliveryState.UNREADABLE)
    with ledger.begin() as conn:
        delivery_states.refresh_states(conn, ["d1"])
    assert ledger.state_of("d1") is DeliveryState.UNREADABLE


def test_a_settled_delivery_keeps_its_time(ledger):
    ledger.store(ledger.delivery())
    ledger.run("d1", "handler", Outcome.DONE)
    with ledger.begin() as conn:
        before = deliveries.get(conn, "d1").settled_at
    ledger.run("d1", "another", Outcome.DEAD)
    with ledger.begin() as conn:
        row = deliveries.get(conn, "d1")
    assert (row.state, row.settled_at) == (DeliveryState.DEAD, before)


def test_of_two_workers_that_end_the_last_two_runs_the_second_settles(ledger, noon):
    ledger.store(ledger.delivery())
    ledger.run("d1", "first", Outcome.WAITING)
    ledger.run("d1", "second", Outcome.WAITING)
    with ledger.begin() as conn:
        for handler in ("first", "second"):
            assert runs.claim(conn, handler, [("d1", 1)], "job", noon) == [("d1", 1)]

    def end(conn, handler):
        at = noon + timedelta(seconds=1)
        assert runs.finish(
            conn,
            handler,
            [RunRecord(delivery_id="d1", handler=handler, attempts=1, outcome=Outcome.DONE, finished_at=at)],
        )
        delivery_states.refresh_states(conn, ["d1"])

    def second():
        with ledger.begin() as conn:
            end(conn, "second")

    with ThreadPoolExecutor(1) as pool:
        with ledger.begin() as conn:
            end(conn, "first")
            other = pool.submit(
                second
            )  # it has to wait for this transaction, and must not decide on what it saw before
        other.result()
    assert ledger.state_of("d1") is DeliveryState.SETTLED


def test_every_state_has_a_sentence():
    assert {outcome for outcome in Outcome if not outcome.is_final} == {WAITING, RUNNING, AGAIN}
    assert [state for state in DeliveryState if state.is_ended] == ["settled", "dead", "unreadable"]
    assert [str(state) for state in PushState] == ["waiting", "sent", "moot", "expired", "dead"]
