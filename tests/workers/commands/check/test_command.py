import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ingest.config.settings import load_settings
from workers.commands.check import basics
from workers.commands.check.policies import check_policies
from workers.ledger import sync_state
from workers.policies.cache import KEYS

KEYS_OF_A_FINDING = ["check", "standing", "sentence"]


def standings(rows):
    found = {}
    for row in rows:
        if "check" in row:
            found.setdefault(row["check"], []).append(row["standing"])
    return found


def test_a_node_with_everything_passes(any_node, valkey_url):
    rows = any_node.rows("check", REDIS_URL=valkey_url)

    assert all(list(row) == KEYS_OF_A_FINDING for row in rows if "check" in row)
    found = standings(rows)
    assert {"keys", "inbox", "redis", "database", "plugins", "clocks", "workers"} <= found.keys()
    assert "fail" not in {standing for those in found.values() for standing in those}


def test_settings_are_shown_without_their_secrets(node):
    url = "redis://somebody:a-secret-word@127.0.0.1:1/0"

    result = node.run("check", code=1, REDIS_URL=url)
    rows = node.rows("check", code=1, REDIS_URL=url)

    values = {row["setting"]: row["value"] for row in rows if "setting" in row}
    assert values["PLUGSURFING_HMAC_CURRENT"] == "***"
    assert values["DATA_DIR"] == str(node.folder)
    assert "a-secret-word" not in result.output
    assert "the-current-key-in-use" not in result.output
    assert standings(rows)["redis"] == ["fail"]


@pytest.mark.parametrize(("sources", "is_said"), [("", True), ("192.0.2.7", False)])
def test_proxies_whose_word_nobody_asks_for_are_said(node, valkey_url, sources, is_said):
    given = {"PLUGSURFING_SOURCES": sources} if sources else {}

    rows = node.rows("check", REDIS_URL=valkey_url, FORWARDED_BY="10.0.0.1", **given)

    said = [row["standing"] for row in rows if "FORWARDED_BY is set" in row.get("sentence", "")]
    assert said == ["warn"] * is_said


@pytest.mark.parametrize(
    ("version", "is_said"),
    [
        ((3, 40, 1), True),
        ((3, 44, 6), False),
        ((3, 45, 0), True),
        ((3, 50, 6), True),
        ((3, 50, 7), False),
        ((3, 51, 2), True),
        ((3, 51, 3), False),
        ((3, 53, 0), False),
    ],
)
def test_an_sqlite_that_may_lose_commits_is_said(node, valkey_url, monkeypatch, version, is_said):
    monkeypatch.setattr(basics.sqlite3, "sqlite_version_info", version)

    rows = node.rows("check", REDIS_URL=valkey_url)

    said = [row["standing"] for row in rows if "walresetbug" in row.get("sentence", "")]
    assert said == ["warn"] * is_said


def test_a_check_changes_nothing(node, valkey_url, tmp_path):
    away = tmp_path / "not" / "there"
    environment = {"DATA_DIR": str(away), "DATABASE_URL": "", "REDIS_URL": valkey_url}

    found = standings(node.rows("check", code=1, **environment))

    assert found["inbox"][0] == "ok"
    assert found["database"] == ["fail"]
    assert not away.parent.exists()


def test_a_database_without_our_tables_is_found_out(node, postgres_url, valkey_url):
    result = node.run("check", code=1, DATABASE_URL=postgres_url, REDIS_URL=valkey_url)

    assert "webhooks migrate" in result.stdout


def test_a_database_that_does_not_answer_is_found_out(node, valkey_url):
    environment = {"DATABASE_URL": "postgresql://me:a-secret-word@127.0.0.1:1/x", "REDIS_URL": valkey_url}

    result = node.run("check", code=1, **environment)

    assert "The database cannot be used" in result.stdout
    assert "a-secret-word" not in result.output


@pytest.mark.parametrize(
    ("environment", "named"),
    [
        ({"PLUGSURFING_HMAC_CURRENT": ""}, "PLUGSURFING_HMAC_CURRENT"),
        ({"PLUGSURFING_HMAC_ENCODING": "rot13"}, "PLUGSURFING_HMAC_ENCODING"),
        ({"PLUGSURFING_HMAC_CURRENT_FILE": "not-there", "PLUGSURFING_HMAC_CURRENT": None}, "HMAC_CURRENT_FILE"),
        ({"HANDLER_MODULES": "no_such_module"}, "no_such_module"),
        ({"PLUGSURFING_HMAC_REQUIRED": "false"}, "PLUGSURFING_AUTHORIZATION"),
        ({"REDIS_URL": None}, "REDIS_URL"),
    ],
)
def test_what_would_stop_a_process_is_named(node, valkey_url, environment, named):
    result = node.run("check", code=1, **{"REDIS_URL": valkey_url, **environment})

    (line,) = [line for line in result.stdout.splitlines() if line.startswith("fail")]
    assert named in line


def test_a_weak_key_and_a_door_without_signatures_are_warned_of(node, valkey_url):
    rows = node.rows(
        "check",
        REDIS_URL=valkey_url,
        PLUGSURFING_HMAC_CURRENT="short",
        PLUGSURFING_HMAC_REQUIRED="false",
        PLUGSURFING_AUTHORIZATION="a credential",
    )

    assert standings(rows)["keys"] == ["warn", "warn", "ok"]


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_a_folder_that_cannot_be_written_is_found_out(node, valkey_url):
    folder = node.folder / "locked"
    folder.mkdir(mode=0o500)

    assert standings(node.rows("check", code=1, DATA_DIR=str(folder), REDIS_URL=valkey_url))["inbox"] == ["fail"]


def test_an_inbox_that_is_no_database_is_found_out(node, valkey_url):
    Path(node.folder / "inbox.db").write_bytes(b"not a database, but as long as the header of one would be" * 10)

    assert standings(node.rows("check", code=1, REDIS_URL=valkey_url))["inbox"] == ["fail"]


def policies(node, valkey_url, **environment):
    rows = node.rows("check", REDIS_URL=valkey_url, **environment)
    return [(row["standing"], row["sentence"]) for row in rows if row.get("check") == "policies"]


def test_who_is_asked_at_the_charger_is_said(node, valkey_url):
    none, off = policies(node, valkey_url)
    assert none == ("ok", "None is asked: every key may charge.")
    assert off[0] == "ok"

    asked, missing, unread = policies(node, valkey_url, AUTHORIZE_KEY_LIST="true", AUTHORIZE_ONE_SESSION="true")
    assert asked == ("ok", "Asked in this order: key_list, one_session.")
    assert (missing[0], unread[0]) == ("warn", "warn")
    assert "AUTHORIZE_CREDENTIALS" in missing[1]
    assert "DRIVE_API_KEY" in unread[1]


def test_how_old_the_list_of_keys_is_is_said(any_node):
    given = {"authorize_key_list": True, "drive_api_key": "a key", "authorize_credentials": "short"}
    settings = load_settings(data_dir=any_node.folder, database_url=any_node.environment["DATABASE_URL"], **given)

    def said():
        return [(found.standing.value, found.sentence) for found in check_policies(settings)][1:]

    now = datetime.now(UTC)
    short, unread = said()
    assert "easy to guess" in short[1]
    assert unread == ("warn", "The list of keys has not been read yet: `webhooks clock` reads it.")
    with any_node.engine.begin() as conn:
        sync_state.claim(conn, KEYS, now, timedelta(1))
        sync_state.mark_complete(conn, KEYS, now, now, 7)
    assert said()[1][0] == "ok"
    assert "7 keys" in said()[1][1]
    with any_node.engine.begin() as conn:
        sync_state.mark_failed(conn, KEYS, now, now, "The Drive API is away.")
    assert said()[1][0] == "warn"
    assert said()[1][1].endswith("Since then it could not be: The Drive API is away.")
    with any_node.engine.begin() as conn:
        sync_state.mark_complete(conn, KEYS, now - timedelta(days=2), now, 7)
    assert "does not count any more" in said()[1][1]
