import base64

from workers.ledger.states import Outcome

NOT_UTF8 = b'{"event": "\xff\x1b[2J"}\n'


def test_a_delivery_is_found_by_the_beginning_of_its_id(any_node, event):
    body = event("SESSION_STARTED", userId="user1")
    id_ = any_node.settle(body, ("thank", Outcome.DEAD), error="ValueError: no")

    (row,) = any_node.rows("show", id_[:12])

    assert row["id"] == id_
    assert row["body"] == body.decode()
    assert base64.b64decode(row["body_base64"]) == body
    assert row["runs"][0]["traceback"] == "Traceback\nValueError: no"
    assert row["headers"] == {"content-type": "application/json"}


def test_a_person_sees_the_runs_the_headers_and_the_body(node, event):
    id_ = node.settle(event("SESSION_STARTED"), ("thank", Outcome.DEAD), error="ValueError: no", receipts=2)

    output = node.run("show", id_).stdout

    for shown in (id_, "thank", "ValueError: no", "and once more", "content-type: application/json", '"sessionId"'):
        assert shown in output


def test_bytes_that_are_not_text_are_escaped_and_whole_in_base64(node):
    id_ = node.settle(NOT_UTF8)

    (row,) = node.rows("show", id_)
    assert row["state"] == "unreadable"
    assert row["reason"]
    assert row["body"] is None
    assert base64.b64decode(row["body_base64"]) == NOT_UTF8
    shown = node.run("show", id_).stdout
    assert "\\xff\\x1b[2J" in shown
    assert "\x1b" not in shown


def test_the_exact_bytes_can_be_had(node):
    id_ = node.settle(NOT_UTF8)

    shown = node.process("show", "--raw", id_)

    assert shown.returncode == 0
    assert shown.stdout == NOT_UTF8


def test_a_delivery_of_the_inbox_is_shown_too(node, event):
    id_ = node.keep(event("SESSION_STARTED"))

    (row,) = node.rows("show", id_[:8])

    assert (row["id"], row["state"]) == (id_, "kept")
    assert row["body"] == event("SESSION_STARTED").decode()


def test_an_id_that_fits_none_or_several_is_a_failure_in_one_sentence(node, event):
    node.settle(event("SESSION_STARTED"))
    node.settle(event("SESSION_STOPPED"))

    for beginning in ("zzz", ""):
        result = node.run("show", beginning, code=1)
        assert result.stdout == ""
        assert len(result.stderr.splitlines()) == 1
