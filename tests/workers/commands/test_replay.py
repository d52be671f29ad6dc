from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select, update

from ingest.config.settings import load_settings
from ingest.queue.queues import QUEUES
from ingest.queue.redis_client import queue
from workers.execution.dead_letters import publish_dead_letters
from workers.execution.replay import apply, plan_replays
from workers.ledger import deliveries, delivery_states
from workers.ledger.states import DeliveryState, Outcome
from workers.ledger.tables import core_tables
from workers.plugins import load_plugins
from workers.resources import Resources

FEE = {"feeType": "BLOCKING", "feeWillApplyFrom": "2026-05-04T12:10:00Z"}
FEE_WARNED = (("session_record", Outcome.DONE), ("warn_the_driver", Outcome.DEAD))


def outcomes(node, id_):
    (row,) = node.rows("show", id_)
    return {run["handler"]: run["outcome"] for run in row["runs"]}


def test_a_dead_run_is_made_again_and_nothing_else_of_its_delivery(any_node, event):
    id_ = any_node.settle(event("SESSION_FEE_INCURRING", **FEE), *FEE_WARNED)

    output = any_node.run("replay", id_[:10]).stdout

    assert outcomes(any_node, id_) == {"session_record": "done", "warn_the_driver": "waiting"}
    assert any_node.rows("deliveries")[0]["state"] == "retrying"
    assert "1 once more" in output


def test_a_delivery_that_another_replay_has_settled_meanwhile_is_not_replayed(any_node, event, monkeypatch):
    id_ = any_node.settle(event("SESSION_FEE_INCURRING", **FEE), *FEE_WARNED)

    def chosen_too_early(*arguments):
        found = find_ids(*arguments)
        with any_node.engine.begin() as conn:
            conn.execute(update(core_tables.runs).values(outcome=Outcome.DONE))
            delivery_states.refresh_states(conn, found)
        return found

    find_ids = deliveries.find_ids
    monkeypatch.setattr(deliveries, "find_ids", chosen_too_early)

    output = any_node.run("replay", "--state", "dead").stdout

    assert outcomes(any_node, id_) == {"session_record": "done", "warn_the_driver": "done"}
    assert "1 not replayed" in output


def test_a_dead_run_that_was_made_after_it_was_read_is_not_made_again(any_node, event):
    id_ = any_node.settle(event("SESSION_FEE_INCURRING", **FEE), *FEE_WARNED)
    plugins = load_plugins(load_settings(data_dir=any_node.folder))
    with any_node.engine.begin() as conn:
        decided = plan_replays(conn, [id_], plugins)
        conn.execute(update(core_tables.runs).values(outcome=Outcome.DONE))
        apply(conn, decided, datetime.now(UTC))

    assert outcomes(any_node, id_) == {"session_record": "done", "warn_the_driver": "done"}


def test_a_replay_of_a_dead_letter_succeeds_without_redis(node, event):
    id_ = node.settle(event("SESSION_FEE_INCURRING", **FEE), *FEE_WARNED)
    with node.engine.begin() as conn:
        conn.execute(update(core_tables.runs).values(job_id="dead-letter"))

    result = node.run("replay", id_, REDIS_URL="redis://127.0.0.1:1")

    assert outcomes(node, id_)["warn_the_driver"] == "waiting"
    assert "dashboard" in result.stderr


def test_a_replay_takes_the_failed_jobs_of_its_runs_and_no_others_off_the_dashboard(
    any_node, event, valkey, valkey_url, tmp_path
):
    replayed = any_node.settle(
        event("SESSION_FEE_INCURRING", "a", **FEE),
        ("session_record", Outcome.DEAD),
        ("warn_the_driver", Outcome.DEAD),
    )
    killed = any_node.settle(event("SESSION_STARTED", "b"), ("*", Outcome.DEAD))
    left = any_node.settle(event("SESSION_STARTED", "c"), ("session_record", Outcome.DEAD))
    settings = load_settings(data_dir=tmp_path)
    publish_dead_letters(Resources(settings, load_plugins(settings), any_node.engine, valkey, {}))
    registries = [queue(name, valkey).failed_job_registry for name in QUEUES]
    assert sum(registry.count for registry in registries) == 4

    any_node.run("replay", replayed, "--handler", "warn_the_driver", REDIS_URL=valkey_url)
    assert sum(registry.count for registry in registries) == 3
    any_node.run("replay", replayed, killed, REDIS_URL=valkey_url)

    (job_id,) = (job_id for registry in registries for job_id in registry.get_job_ids())
    assert left in job_id
    assert len(valkey.keys("rq:job:*")) == 1


def test_a_failed_job_that_was_enqueued_again_by_hand_is_not_withdrawn(node, event, valkey, valkey_url, tmp_path):
    id_ = node.settle(event("SESSION_FEE_INCURRING", **FEE), *FEE_WARNED)
    settings = load_settings(data_dir=tmp_path)
    publish_dead_letters(Resources(settings, load_plugins(settings), node.engine, valkey, {}))
    (urgent,) = (queue(name, valkey) for name in QUEUES if queue(name, valkey).failed_job_registry.count)
    registry = urgent.failed_job_registry
    registry.requeue(registry.get_job_ids()[0])

    node.run("replay", id_, REDIS_URL=valkey_url)

    assert urgent.count == 1


def test_a_dry_run_lists_what_would_run_and_changes_nothing(node, event):
    id_ = node.settle(event("SESSION_FEE_INCURRING", **FEE), *FEE_WARNED)

    (row,) = node.rows("replay", "--state", "dead", "--dry-run")

    assert row["id"] == id_
    assert row["again"] == ["warn_the_driver"]
    assert "warn_the_driver" in node.run("replay", id_, "--dry-run").stdout
    assert outcomes(node, id_)["warn_the_driver"] == "dead"


def test_what_was_unreadable_is_read_again(any_node, event):
    still = any_node.settle(b'{"event": "SESSION_STARTED"}')
    known = any_node.settle(event("SESSION_STARTED"))
    ignored = any_node.settle(event("SESSION_PAINTED"))
    with any_node.engine.begin() as conn:  # as a version that understood less has left them
        conn.execute(update(core_tables.deliveries).values(state=DeliveryState.UNREADABLE, event=None, session_id=None))

    output = any_node.run("replay", "--state", "unreadable").stdout

    assert "1 still unreadable" in output
    found = {row["id"]: (row["state"], row["event"], row["session_id"]) for row in any_node.rows("deliveries")}
    assert found[still] == ("unreadable", None, None)
    assert found[known] == ("retrying", "SESSION_STARTED", "L60XMxWy0oP")
    assert found[ignored] == ("settled", "SESSION_PAINTED", "L60XMxWy0oP")
    assert outcomes(any_node, known) == {"session_record": "waiting"}
    assert outcomes(any_node, ignored) == {"*": "ignored"}
    assert outcomes(any_node, still) == {}


def test_a_delivery_that_killed_its_workers_is_handled_after_all(any_node, event):
    id_ = any_node.settle(event("SESSION_STARTED"), ("*", Outcome.DEAD))

    any_node.run("replay", id_)

    assert outcomes(any_node, id_) == {"session_record": "waiting"}
    assert any_node.rows("deliveries")[0]["state"] == "retrying"


def test_a_handler_that_came_later_sees_what_came_before(node, event):
    id_ = node.settle(event("SESSION_FEE_INCURRING", **FEE), ("session_record", Outcome.DONE))

    assert "1 for the first time" in node.run("replay", "--handler", "warn_the_driver").stdout

    assert outcomes(node, id_) == {"session_record": "done", "warn_the_driver": "waiting"}
    with node.engine.connect() as conn:
        run = conn.execute(select(core_tables.runs).where(core_tables.runs.c.handler == "warn_the_driver")).one()
    assert run.queue == "background"


def test_what_is_run_again_goes_behind_what_is_new(node, event):
    id_ = node.settle(event("SESSION_STARTED"), ("session_record", Outcome.DONE))

    node.run("replay", id_)

    with node.engine.connect() as conn:
        assert conn.execute(select(core_tables.runs)).one().queue == "background"


def test_only_what_the_filters_find_is_replayed(node, event, noon):
    early = node.settle(event("SESSION_STARTED", "a"), ("session_record", Outcome.DONE), received_at=noon)
    late = node.settle(
        event("SESSION_STOPPED", "b"), ("session_record", Outcome.DONE), received_at=noon + timedelta(hours=1)
    )

    node.run("replay", "--since", "2026-05-04T12:30:00Z", "--event", "SESSION_STOPPED")

    assert outcomes(node, early) == {"session_record": "done"}
    assert outcomes(node, late) == {"session_record": "waiting"}


def test_a_rate_spreads_the_runs_over_time(node, event):
    for number in range(9):
        node.settle(event("SESSION_STARTED", f"s{number}"), ("session_record", Outcome.DONE))
    before = datetime.now(UTC)

    output = node.run("replay", "--event", "SESSION_STARTED", "--rate", "3").stdout

    with node.engine.connect() as conn:
        due = sorted(conn.scalars(select(core_tables.runs.c.due_at)))
    assert [round((at - due[0]).total_seconds()) for at in due] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert due[0] >= before
    assert "over 3.0 s" in output


def test_many_are_replayed_in_steps(node, event):
    for number in range(450):
        node.settle(event("SESSION_STARTED", f"s{number}"), ("session_record", Outcome.DEAD))

    assert "Deliveries: 450." in node.run("replay", "--state", "dead").stdout
    assert {row["state"] for row in node.rows("deliveries")} == {"retrying"}


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--dry-run"],
        ["--rate", "5"],
        ["abc", "--since", "1h"],
        ["--since", "some day"],
        ["--state", "kept"],
        ["--rate", "0", "--state", "dead"],
        ["--handler", "no_such_handler"],
    ],
)
def test_a_replay_without_deliveries_is_wrong_usage(node, arguments):
    assert node.run("replay", *arguments, code=2).stderr


def test_an_unknown_id_stops_the_replay_before_anything_has_changed(node, event):
    id_ = node.settle(event("SESSION_FEE_INCURRING", **FEE), *FEE_WARNED)

    assert "zzz" in node.run("replay", id_, "zzz", code=1).stderr

    assert outcomes(node, id_)["warn_the_driver"] == "dead"


def test_filters_that_find_nothing_are_no_failure(node):
    assert "Deliveries: 0." in node.run("replay", "--state", "dead").stdout
    assert node.run("replay", "--state", "dead", "--dry-run").stdout == "None.\n"
