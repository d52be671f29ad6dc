"""Pushes that were given up are found, and made due again."""

from datetime import timedelta

import pytest

from handlers.kit.context import Push
from workers.ledger import push_queries, pushes
from workers.ledger.push_queries import LATE_SPAN
from workers.ledger.pushes import NewPush, PushUpdate
from workers.ledger.states import PushState

SPAN = timedelta(minutes=1)


@pytest.fixture
def ended(ledger, noon):
    """Insert a push and end its first attempt."""

    def end(number, state, error=None, **parts):
        usual = {"user_id": f"u{number}", "title": "Fee", "body": "Soon", "collapse_key": "fee"}
        new = NewPush(f"d{number}", "warn", "log", Push(**{**usual, **parts}), noon)
        update = PushUpdate(
            id=new.id,
            attempt=1,
            state=state,
            due_at=noon + SPAN if state is PushState.WAITING else None,
            error=error,
        )
        with ledger.begin() as conn:
            pushes.insert(conn, [new])
            pushes.claim(conn, "log", noon, SPAN, limit=1)
            pushes.mark(conn, [update])
        return new.id

    return end


def test_given_up_pushes_are_due_again_and_those_whose_time_has_passed_get_more_of_it(ledger, ended, noon):
    dead = [ended(number, PushState.DEAD, expires_at=noon + number * SPAN) for number in (1, 9)]
    sent = ended(3, PushState.SENT)
    now = noon + 2 * SPAN
    with ledger.begin() as conn:
        assert [push.id for push in push_queries.find_given_up(conn)] == dead
        assert push_queries.retry(conn, [*dead, sent], [PushState.DEAD], now) == 2
        assert push_queries.retry(conn, [*dead, sent], [PushState.DEAD], now) == 0
        by_id = {push.id: push for push in pushes.find(conn, state=PushState.WAITING)}
    assert {push.due_at for push in by_id.values()} == {now}
    assert [by_id[push_id].expires_at for push_id in dead] == [now + LATE_SPAN, noon + 9 * SPAN]
    with ledger.begin() as conn:
        assert [push.id for push in pushes.claim(conn, "log", now, SPAN, limit=9)] == [dead[1], dead[0]]


def test_each_filter_narrows_what_is_sent_again(ledger, ended, noon):
    key = ended(0, PushState.DEAD)
    with ledger.begin() as conn:
        for wanted in ({"ids": [key]}, {"channel": "log"}, {"since": noon}, {"until": noon + SPAN}):
            assert [push.id for push in push_queries.find_given_up(conn, **wanted)] == [key]
        for wanted in ({"ids": ["other"]}, {"channel": "fcm"}, {"until": noon}, {"states": [PushState.EXPIRED]}):
            assert push_queries.find_given_up(conn, **wanted) == []
