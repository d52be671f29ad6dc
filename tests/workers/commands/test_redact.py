import json

RULES = {"REDACT": "/payload/userEmail:mask,SESSION_STARTED:/payload/plate:remove"}


def test_a_file_is_shown_as_it_would_be_kept(node, event):
    (node.folder / "body.json").write_bytes(event("SESSION_STARTED", userEmail="jane@example.com", plate="M-XY 1"))

    (shown,) = node.rows("redact", "--try", "body.json", **RULES)

    assert shown["changed"]
    payload = json.loads(shown["body"])["payload"]
    assert payload["userEmail"] == "***"
    assert "plate" not in payload


def test_it_is_said_that_no_rule_leads_anywhere(node, event):
    (node.folder / "body.json").write_bytes(event("SESSION_STOPPED", plate="M-XY 1"))

    assert "Nothing is redacted" in node.run("redact", "--try", "body.json", **RULES).stderr


def test_rules_after_which_a_body_cannot_be_read_are_warned_of(node, event):
    (node.folder / "body.json").write_bytes(event("SESSION_STARTED", userId="driver-7"))

    shown = node.run("redact", "--try", "body.json", "--json", REDACT="/payload/timestamp:mask")
    harmless = node.run("redact", "--try", "body.json", "--json", REDACT="/payload/userId:mask")

    assert "cannot be read any more" in shown.stderr
    assert json.loads(shown.stdout)["unreadable"]
    assert not harmless.stderr
    assert not json.loads(harmless.stdout)["unreadable"]
