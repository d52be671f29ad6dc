from dataclasses import replace

from ingest.config.settings import load_settings
from ingest.queue.process_registry import ProcessRecord, ProcessRegistry, ProcessType
from workers.installation import open_queues


def test_handlers_are_listed_with_their_events_and_queues(node):
    rows = {row["handler"]: row for row in node.rows("handlers")}

    assert rows["warn_the_driver"]["events"] == ["SESSION_FEE_INCURRING"]
    assert rows["warn_the_driver"]["queue"] == "urgent"
    assert rows["session_record"]["records"] is True
    assert rows["warn_the_driver"]["file"].endswith("handlers/fee_warning.py")
    assert "before all handlers" in node.run("handlers").stdout


def test_policies_are_listed_where_handlers_are_in_the_order_in_which_they_are_asked(node):
    assert "policy" not in node.run("handlers").stdout
    wanted = {"AUTHORIZE_ONE_SESSION": "true", "AUTHORIZE_KEY_LIST": "true"}
    rows = [row for row in node.rows("handlers", **wanted) if "policy" in row]
    assert [row["policy"] for row in rows] == ["key_list", "one_session"]
    assert rows[0]["order"] < rows[1]["order"]
    assert rows[0]["file"].endswith("handlers/authorize_key_list.py")
    for_people = node.run("handlers", **wanted).stdout
    assert for_people.index("key_list") < for_people.index("one_session")


def test_workers_that_have_not_loaded_the_handlers_as_they_are_are_named(node, valkey_url):
    queues = open_queues(load_settings(redis_url=valkey_url, database_url=str(node.engine.url)), node.engine)
    record = ProcessRecord.of_this_process(ProcessType.WORK, queues=["urgent"])
    loaded = tuple(row["handler"] for row in node.rows("handlers"))
    for parts, sentence in (
        ({"handlers": loaded}, ""),
        ({"handlers": loaded[1:]}, f"The worker {record.id} has not loaded {loaded[0]}: start it again.\n"),
        (
            {"handlers": loaded, "outdated": ("thanks.py",)},
            f"The worker {record.id} has older versions of thanks.py: start it again.\n",
        ),
    ):
        ProcessRegistry(queues).beat(replace(record, **parts))
        assert node.run("handlers", REDIS_URL=valkey_url).stderr == sentence
