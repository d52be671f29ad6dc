from contextlib import closing
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import insert, update

from ingest.config.settings import load_settings
from ingest.inbox.schema import FILE_NAME, open_inbox_file
from workers.commands.check import consistency
from workers.ledger.states import Outcome
from workers.ledger.tables.core_tables import deliveries, pushes, runs


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    real = consistency.find_stuck
    monkeypatch.setattr(consistency, "find_stuck", lambda *stores: real(*stores, patience=timedelta(milliseconds=10)))


def findings(rows):
    return {(row["check"], row["standing"]): row["sentence"] for row in rows}


def test_stores_that_agree_pass(any_node, event, valkey_url):
    any_node.settle(event("SESSION_STARTED"), ("note", Outcome.DONE))
    any_node.settle(event("SESSION_STOPPED"), ("note", Outcome.DEAD), error="it broke")
    any_node.settle(event("SESSION_COMPLETE"), ("note", Outcome.AGAIN), error="not yet")

    found = findings(any_node.rows("check", "--deep", REDIS_URL=valkey_url))

    assert found.keys() == {("ledger", "ok"), ("queues", "ok")}


def test_what_contradicts_itself_is_named_with_its_ids(any_node, event, valkey_url):
    delivery_id = any_node.settle(event("SESSION_STARTED"), ("note", Outcome.DONE))
    with any_node.engine.begin() as ledger:
        ledger.execute(update(deliveries).values(state="dead"))
        ledger.execute(update(runs).values(error="both done and dead"))

    result = any_node.run("check", "--deep", code=1, REDIS_URL=valkey_url)

    assert "Broken: a dead delivery has a dead run" in result.stdout
    assert "Broken: a run that is done was not given up" in result.stdout
    assert delivery_id in result.stdout.replace("\n", "")


def test_stuck_work_is_named(node, event, valkey_url):
    node.keep(event("SESSION_STARTED"))

    found = findings(node.rows("check", "--deep", code=1, REDIS_URL=valkey_url))

    assert "deliveries wait in the inbox" in found["queues", "fail"]
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


def test_what_is_lost_is_counted_and_the_first_are_named(any_node, valkey_url):
    lost = [f"{number:032d}" for number in range(5)]
    with closing(open_inbox_file(any_node.folder / FILE_NAME)) as file:
        file.executemany("INSERT INTO seen (id, first_at) VALUES (?, 0)", [(name,) for name in lost])

    found = findings(any_node.rows("check", "--deep", code=1, REDIS_URL=valkey_url))

    assert f"neither there nor in the ledger, 5: {', '.join(lost[:3])} and 2 more." in found["inbox", "fail"]
    assert ("queues", "ok") not in found


def test_what_other_inboxes_left_at_work_is_a_warning(any_node, event, valkey_url, noon):
    left = any_node.settle(event("SESSION_STARTED"))
    with any_node.engine.begin() as ledger:
        ledger.execute(update(deliveries).values(stored_at=noon, state="running", settled_at=None))

    found = findings(any_node.rows("check", "--deep", REDIS_URL=valkey_url))

    assert found["queues", "warn"].startswith(f"For more than 60 min at work by other inboxes (an-inbox): {left}.")


def test_overdue_pushes_are_a_warning(any_node, event, valkey_url):
    delivery_id = any_node.settle(event("SESSION_STARTED"), ("note", Outcome.DONE))
    due_at = datetime.now(UTC) - timedelta(hours=3)
    row = {
        "id": "p1", "delivery_id": delivery_id, "handler": "note", "user_id": "driver", "channel": "fcm",
        "state": "waiting", "title": "", "body": "", "payload": {}, "collapse_key": "", "created_at": due_at,
        "due_at": due_at, "attempts": 0,
    }  # fmt: skip
    with any_node.engine.begin() as ledger:
        ledger.execute(insert(pushes).values(row))

    found = findings(any_node.rows("check", "--deep", REDIS_URL=valkey_url))

    assert found["pushes", "warn"].startswith("1 on fcm has been due for up to 3 h, first p1: is `clock` running")


def test_missed_runs_may_be_checked_from_the_first_run_on(node, event, valkey_url, noon):
    node.settle(
        event("SESSION_FEE_INCURRING", "A"), ("warn_the_driver", Outcome.DONE), ("session_record", Outcome.DONE)
    )
    missed = node.settle(event("SESSION_FEE_INCURRING", "B"), ("session_record", Outcome.DONE))
    with node.engine.begin() as ledger:
        ledger.execute(update(runs).values(started_at=noon))
        ledger.execute(update(deliveries).values(stored_at=noon + timedelta(seconds=1)))
    settings = load_settings(data_dir=node.folder, database_url=node.environment["DATABASE_URL"], redis_url=valkey_url)

    def gaps(**parts):
        return [one.sentence for one in consistency.check_consistency(settings, **parts) if one.subject == "handlers"]

    assert gaps() == []
    (sentence,) = gaps(rollout=timedelta())
    assert missed in sentence


def test_without_redis_or_a_ledger_there_is_a_sentence_for_it(node):
    nowhere = f"sqlite:///{node.folder / 'nowhere.db'}"
    for environment in ({"REDIS_URL": ""}, {"REDIS_URL": "redis://127.0.0.1:1"}, {"DATABASE_URL": nowhere}):
        found = findings(node.rows("check", "--deep", code=1, **environment))

        assert "fail" in {standing for _, standing in found}
