from datetime import timedelta

import pytest
from sqlalchemy import update

from workers.commands import deepcheck
from workers.ledger.outcomes import Outcome
from workers.ledger.tables import deliveries, runs


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    real = deepcheck.adrift
    monkeypatch.setattr(deepcheck, "adrift", lambda *stores: real(*stores, patience=timedelta(milliseconds=10)))


def findings(rows):
    return {(row["check"], row["standing"]): row["sentence"] for row in rows}


def test_stores_that_agree_pass(any_node, event, valkey_url):
    any_node.settle(event("SESSION_STARTED"), ("note", Outcome.DONE))
    any_node.settle(event("SESSION_STOPPED"), ("note", Outcome.DEAD), error="it broke")
    any_node.settle(event("SESSION_COMPLETE"), ("note", Outcome.AGAIN), error="not yet")

    found = findings(any_node.rows("check", "--deep", REDIS_URL=valkey_url))

    assert found.keys() == {("ledger", "ok"), ("ways", "ok")}


def test_what_contradicts_itself_is_named_with_its_ids(any_node, event, valkey_url):
    delivery_id = any_node.settle(event("SESSION_STARTED"), ("note", Outcome.DONE))
    with any_node.engine.begin() as ledger:
        ledger.execute(update(deliveries).values(state="dead"))
        ledger.execute(update(runs).values(error="both done and dead"))

    result = any_node.run("check", "--deep", code=1, REDIS_URL=valkey_url)

    assert "Broken: a dead delivery has a dead run" in result.stdout
    assert "Broken: a run that is done was not given up" in result.stdout
    assert delivery_id in result.stdout.replace("\n", "")


def test_what_nobody_carries_is_named(node, event, valkey_url):
    node.keep(event("SESSION_STARTED"))

    found = findings(node.rows("check", "--deep", code=1, REDIS_URL=valkey_url))

    assert "deliveries wait in the inbox" in found["ways", "fail"]
    assert ("ledger", "ok") in found


def test_a_settled_delivery_that_a_handler_missed_is_a_warning(node, event, valkey_url, noon):
    node.settle(
        event("SESSION_FEE_INCURRING", "A"), ("warn_the_driver", Outcome.DONE), ("session_record", Outcome.DONE)
    )
    missed = node.settle(event("SESSION_FEE_INCURRING", "B"), ("session_record", Outcome.DONE))
    with node.engine.begin() as ledger:
        ledger.execute(update(runs).values(started_at=noon))

    found = findings(node.rows("check", "--deep", REDIS_URL=valkey_url))

    assert missed in found["handlers", "warn"]


def test_without_redis_or_a_ledger_there_is_a_sentence_for_it(node):
    nowhere = f"sqlite:///{node.folder / 'nowhere.db'}"
    for environment in ({"REDIS_URL": ""}, {"REDIS_URL": "redis://127.0.0.1:1"}, {"DATABASE_URL": nowhere}):
        found = findings(node.rows("check", "--deep", code=1, **environment))

        assert "fail" in {standing for _, standing in found}
