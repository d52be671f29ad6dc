import json
import os
import sqlite3
from collections import Counter
from datetime import UTC, datetime

import pytest
from rq.job import Job

from ingest.queue.erasure_orders import list_orders
from ingest.queue.queues import QUEUES
from ingest.queue.redis_client import queue
from workers.ledger.audit_log import Actor, AuditAct, AuditEntry, record
from workers.ledger.states import Outcome
from workers.ledger.tables.core_tables import deliveries
from workers.ledger.tables.erasure_tables import erasures
from workers.privacy.late_erasure import LateErasureTask

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

    result = any_node.run("erase", "--user", "driver-7", "--json")
    certificate = json.loads(result.stdout)

    assert "REDIS_URL is not set" in result.stderr
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


def test_the_audit_log_names_an_erased_session_no_more(any_node, event):
    any_node.settle(event("SESSION_STARTED", "s-1+ö", userId="driver-7"), DONE)
    with any_node.engine.begin() as ledger:
        for subject in ("/sessions/s-1+%C3%B6", "/sessions/s-1+%C3%B6x", "/sessions/driver-7", "s-2"):
            record(ledger, AuditEntry(AuditAct.USER_VIEWED, Actor("ann", "here"), subject), datetime.now(UTC))

    any_node.run("erase", "--user", "driver-7")

    found = Counter(row["subject"] for row in any_node.rows("audit") if row["act"] == "user_viewed")
    assert found == {"erased": 2, "/sessions/s-1+%C3%B6x": 1, "s-2": 1}


def test_a_certificate_is_carried_out_again_in_a_ledger_that_was_restored(node, event):
    settled = node.settle(event("SESSION_STARTED", "s-1", userId="Driver-7"), DONE)
    node.settle(event("SESSION_STARTED", "s-2", userId="driver-8"), DONE)
    node.settle(event("SESSION_STARTED", "s-3", userId="driver-9"), DONE)
    node.run("backup", "--to", "copy")
    lines = [node.run("erase", *who, "--json").stdout for who in (("--user", "driver-7"), ("--session", "s-2"))]
    (node.folder / "certificates").write_text("".join(lines))
    assert "driver-7" not in "".join(lines).lower()
    new = {"DATA_DIR": str(node.folder / "new"), "DATABASE_URL": f"sqlite:///{node.folder}/new/ledger.db"}
    node.run("restore", "--from", "copy", **new)
    assert node.rows("deliveries", "--user", "driver-7", **new)

    found = node.rows("erase", "--again", str(node.folder / "certificates"), **new)

    assert [each["ledger"]["deliveries"] for each in found] == [1, 1]
    assert node.rows("show", settled, **new)[0]["body"] == ""
    assert [row["session_id"] for row in node.rows("deliveries", **new) if row["session_id"]] == ["s-3"]
    assert sum(row["act"] == "erased" for row in node.rows("audit", **new)) == 2


def test_what_is_no_certificate_of_this_ledger_erases_nothing(node, event):
    node.settle(event("SESSION_STARTED", "s-1", userId="driver-7"), DONE)
    (certificate,) = node.rows("erase", "--session", "no such session")
    certificate["order"]["salt"] = "another"
    file = node.folder / "certificates"
    for text, said in (("no JSON", "line 1, is no certificate"), (json.dumps(certificate), "is of the ledger another")):
        file.write_text(text)
        assert said in node.run("erase", "--again", str(file), code=1).stderr
    node.run("erase", "--again", str(file), "--archive", str(file), code=2)
    assert node.rows("deliveries", "--user", "driver-7")


def test_the_clock_erases_again_what_redis_knows_and_a_restored_ledger_does_not(any_node, event, connected, valkey):
    any_node.settle(event("SESSION_STARTED", "s-1", userId="driver-7"), DONE)
    (certificate,) = any_node.rows("erase", "--user", "driver-7", **connected)
    # As it was before.
    with any_node.engine.begin() as ledger:
        ledger.execute(erasures.delete())
        ledger.execute(deliveries.delete())
    restored = any_node.settle(event("SESSION_STARTED", "s-1", userId="driver-7"), DONE)
    other = any_node.settle(event("SESSION_STARTED", "s-2", userId="driver-8"), DONE)

    task = LateErasureTask(any_node.engine, valkey)
    task.run()

    assert any_node.rows("show", restored)[0]["body"] == ""
    assert any_node.rows("show", other)[0]["body"]
    assert not any_node.rows("deliveries", "--user", "driver-7")
    (order,) = list_orders(valkey)
    assert order.to_fields() == certificate["order"]
    # Once: who comes back later is not erased.
    back = any_node.settle(event("SESSION_STARTED", "s-9", userId="driver-7"), DONE, received_at=datetime.now(UTC))
    task.run()
    assert any_node.rows("show", back)[0]["body"]


def test_an_erasure_in_a_restored_ledger_leaves_the_orders_that_the_clock_has_still_to_repeat(
    node, event, connected, valkey
):
    node.settle(event("SESSION_STARTED", "s-1", userId="driver-7"), DONE)
    (first,) = node.rows("erase", "--user", "driver-7", **connected)
    with node.engine.begin() as ledger:
        ledger.execute(erasures.delete())
        ledger.execute(deliveries.delete())
    restored = node.settle(event("SESSION_STARTED", "s-1", userId="driver-7"), DONE)

    (second,) = node.rows("erase", "--user", "driver-8", **connected)

    assert {order.id for order in list_orders(valkey)} == {first["erasure"], second["erasure"]}
    assert node.rows("show", restored)[0]["body"] == ""


def test_a_rewrite_of_the_database_that_failed_is_not_certified(node, event, monkeypatch):
    node.settle(event("SESSION_STARTED", "s-1", userId="driver-7"), DONE)

    def fail(*_):
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr("workers.commands.erase.vacuum_ledger", fail)

    (certificate,) = node.rows("erase", "--user", "driver-7", "--vacuum", code=1)

    assert (certificate["ledger"]["deliveries"], certificate["vacuumed"]) == (1, False)


def test_descriptions_of_jobs_are_erased_by_the_clock_once_redis_is_back(node, event, valkey):
    node.settle(event("SESSION_STARTED", "s-1", userId="driver-7"), DONE)
    jobs = queue(QUEUES[0], valkey)
    job = jobs.enqueue_job(jobs.create_job("builtins.print", description="SESSION_STARTED s-1"))
    node.run("erase", "--user", "driver-7", code=1, REDIS_URL="redis://127.0.0.1:1")

    LateErasureTask(node.engine, valkey).run()

    assert Job.fetch(job.id, connection=valkey, serializer=jobs.serializer).description == "erased"


def test_an_id_that_the_ledger_does_not_know_is_said_to_be_unknown(node, event):
    node.settle(event("SESSION_STARTED", "S-1", userId="driver-7"), DONE)

    for arguments in (("--session", "s-2"), ("--user", "driver-8"), ("--user", "driver-8", "--dry-run")):
        assert "No delivery, record or alert has this id" in node.run("erase", *arguments).stderr
    assert "has this id" not in node.run("erase", "--session", "S-1").stderr


def test_a_session_is_erased_in_any_case_of_its_letters(any_node, event):
    any_node.settle(event("SESSION_STARTED", "L60XMx", userId="driver-7"), DONE)
    any_node.settle(event("SESSION_STARTED", "L60XMxx", userId="driver-7"), DONE)

    any_node.run("erase", "--session", "l60xmX")

    assert [row["session_id"] for row in any_node.rows("deliveries") if row["session_id"]] == ["L60XMxx"]
    any_node.run("session", "L60XMx", code=1)
