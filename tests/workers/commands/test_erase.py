import os

import pytest
from rq.job import Job

from ingest.queue.queues import QUEUES
from ingest.queue.redis_client import queue
from workers.ledger.states import Outcome

DONE = ("session_record", Outcome.DONE)


@pytest.fixture
def connected(valkey_url):
    return {"REDIS_URL": valkey_url, "QUEUE_NAMESPACE": os.environ["QUEUE_NAMESPACE"]}


def test_a_dry_run_erases_nothing(any_node, event):
    any_node.settle(event("SESSION_STARTED", userId="driver-7"), DONE)

    (found,) = any_node.rows("erase", "--user", "driver-7", "--dry-run")

    assert (found["sessions"], found["deliveries"], found["cdrs"]) == (1, 1, 0)
    assert any_node.rows("deliveries", "--user", "driver-7")


def test_a_certificate_says_what_was_erased_and_names_nobody(any_node, event, connected):
    any_node.settle(event("SESSION_STARTED", userId="driver-7"), DONE)

    output = any_node.run("erase", "--user", "DRIVER-7", "--reason", "ticket 7", **connected).stdout

    assert "ledger: deliveries" in output
    assert "driver-7" not in output.lower()
    (entry,) = [row for row in any_node.rows("audit") if row["act"] == "erased"]
    assert entry["subject"].endswith(": ticket 7")
    assert entry["count"] == 2
    assert not any_node.rows("deliveries", "--user", "driver-7")


def test_without_redis_the_ledger_is_erased_and_the_certificate_says_what_was_not(any_node, event):
    any_node.settle(event("SESSION_STARTED", userId="driver-7"), DONE)

    (certificate,) = any_node.rows("erase", "--user", "driver-7")

    assert certificate["ledger"]["deliveries"] == 1
    assert "REDIS_URL" in certificate["redis"]["failed"]


def test_descriptions_of_jobs_name_an_erased_session_no_more(node, event, connected, valkey):
    node.settle(event("SESSION_STARTED", "s-1", userId="driver-7"), DONE)
    jobs = queue(QUEUES[0], valkey)
    job, other = (
        jobs.enqueue_job(jobs.create_job("builtins.print", description=text))
        for text in ("SESSION_STARTED s-1", "SESSION_STARTED s-10")
    )

    node.rows("erase", "--session", "s-1", **connected)

    described = [Job.fetch(each.id, connection=valkey, serializer=jobs.serializer).description for each in (job, other)]
    assert described == ["erased", "SESSION_STARTED s-10"]


def test_either_a_driver_or_a_session_is_named(node):
    node.run("erase", code=2)
    node.run("erase", "--user", "a", "--session", "b", code=2)


@pytest.mark.parametrize("empty", ["", "  "])
def test_an_empty_id_erases_nothing(node, event, empty):
    node.settle(event("SESSION_STARTED", userId="driver-7", note=empty), DONE)

    node.run("erase", "--user", empty, code=2)
    node.run("erase", "--session", empty, code=2)

    assert node.rows("deliveries", "--user", "driver-7")


def test_a_redis_that_is_away_is_a_failure_and_what_was_done_is_recorded(node, event):
    node.settle(event("SESSION_STARTED", userId="driver-7"), DONE)

    result = node.run("erase", "--user", "driver-7", "--json", code=1, REDIS_URL="redis://127.0.0.1:1")

    assert '"failed"' in result.stdout
    assert [row for row in node.rows("audit") if row["act"] == "erased"]
