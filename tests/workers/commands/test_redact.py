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
