from workers.ledger.states import Outcome
from workers.privacy import vacuum

DONE = ("session_record", Outcome.DONE)


def test_a_dry_run_counts_and_deletes_nothing(any_node, event):
    id_ = any_node.settle(event("SESSION_STARTED", userId="driver-7"), DONE)

    rows = {row["kind"]: row for row in any_node.rows("retain", "--dry-run")}

    assert rows["bodies"]["rows"] == 1
    assert rows["bodies"]["setting"] == "RETAIN_BODIES"
    assert any_node.rows("show", id_)[0]["body"]


def test_what_is_old_goes_and_show_says_so(any_node, event):
    id_ = any_node.settle(event("SESSION_STARTED", userId="driver-7"), DONE)

    assert any_node.rows("retain") == [{"bodies": 1}]

    assert "driver-7" not in any_node.run("show", id_).stdout
    assert ", retention" in any_node.run("show", id_).stdout
    (row,) = any_node.rows("show", id_)
    assert (row["state"], row["body_deletion"]) == ("settled", "retention")
    (entry,) = [row for row in any_node.rows("audit") if row["act"] == "deleted"]
    assert (entry["subject"], entry["count"]) == ("bodies", 1)
    assert any_node.run("retain").stdout == "Nothing is old enough.\n"


def test_a_replay_says_that_a_body_is_deleted(any_node, event):
    id_ = any_node.settle(event("SESSION_STARTED"), DONE)
    any_node.run("retain")

    assert "1 not replayed: their bodies are deleted." in any_node.run("replay", id_).stdout
    assert any_node.rows("show", id_)[0]["state"] == "settled"


def test_the_database_is_rewritten_where_that_is_asked_for(node, event):
    node.settle(event("SOMETHING_NEW", plate="M-XY 123"), ("*", Outcome.IGNORED))

    node.run("retain", "--vacuum")

    for file in node.folder.glob("ledger.db*"):
        assert b"M-XY 123" not in file.read_bytes()
    assert node.rows("deliveries")[0]["state"] == "settled"


def test_a_program_that_reads_a_deleted_body_is_told_so(any_node, event):
    id_ = any_node.settle(event("SESSION_STARTED"), DONE)
    any_node.run("retain")

    result = any_node.run("show", id_, "--raw", code=1)

    assert result.stdout == ""
    assert "retention" in result.stderr


def test_a_database_that_cannot_be_rewritten_is_one_sentence(any_node, monkeypatch):
    monkeypatch.setattr(vacuum, "_vacuum_sqlite", lambda connection: connection.execute("VACUUM nowhere"))
    monkeypatch.setattr(vacuum, "_tables", lambda _engine: ["nothing"])

    assert "The database could not be rewritten: " in any_node.run("retain", "--vacuum", code=1).stderr
