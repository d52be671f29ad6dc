def test_a_node_with_everything_passes(any_node, valkey_url):
    rows = any_node.rows("check", REDIS_URL=valkey_url)

    assert all(list(row) == ["check", "standing", "sentence"] for row in rows)
    assert {"keys", "inbox", "redis", "database", "plugins", "clocks", "workers"} <= {row["check"] for row in rows}
    assert "fail" not in {row["standing"] for row in rows}


def test_settings_are_printed_when_asked_for_without_their_secrets(node):
    url = "redis://somebody:a-secret-word@127.0.0.1:1/0"

    result = node.run("check", "--settings", code=1, REDIS_URL=url)
    rows = node.rows("check", "--settings", code=1, REDIS_URL=url)

    values = {row["setting"]: row["value"] for row in rows if "setting" in row}
    assert values["PLUGSURFING_HMAC_CURRENT"] == "***"
    assert values["DATA_DIR"] == str(node.folder)
    assert f"DATA_DIR {node.folder}" in " ".join(result.stdout.split())
    assert "a-secret-word" not in result.output
    assert "the-current-key-in-use" not in result.output
    assert [row["standing"] for row in rows if row.get("check") == "redis"] == ["fail"]


def test_without_being_asked_for_no_setting_is_printed(node, valkey_url):
    result = node.run("check", REDIS_URL=valkey_url)

    assert "DATA_DIR" not in result.stdout
    assert all(line.split()[0] in {"ok", "warn", "fail"} for line in result.stdout.splitlines())


def test_a_setting_that_cannot_be_read_is_a_result_and_an_exit_code(node):
    (row,) = node.rows("check", code=1, PLUGSURFING_HMAC_ENCODING="rot13")

    assert (row["check"], row["standing"]) == ("settings", "fail")
    assert "PLUGSURFING_HMAC_ENCODING" in row["sentence"]


def test_a_deep_check_prints_settings_only_when_asked_for(node, valkey_url):
    assert not [row for row in node.rows("check", "--deep", REDIS_URL=valkey_url) if "setting" in row]
    assert [row for row in node.rows("check", "--deep", "--settings", REDIS_URL=valkey_url) if "setting" in row]
