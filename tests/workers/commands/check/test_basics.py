import os
from pathlib import Path

import pytest

from workers.commands.check import basics


def standings(rows):
    found = {}
    for row in rows:
        found.setdefault(row["check"], []).append(row["standing"])
    return found


@pytest.mark.parametrize(("sources", "is_said"), [("", True), ("192.0.2.7", False)])
def test_it_is_said_that_proxies_without_a_list_of_senders_check_nothing(node, valkey_url, sources, is_said):
    given = {"PLUGSURFING_SOURCES": sources} if sources else {}

    rows = node.rows("check", REDIS_URL=valkey_url, FORWARDED_BY="10.0.0.1", **given)

    found = [row["standing"] for row in rows if "FORWARDED_BY tells" in row["sentence"]]
    assert found == ["ok"] * is_said


@pytest.mark.parametrize(
    ("version", "is_warned"),
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
def test_an_sqlite_with_the_wal_reset_bug_is_a_warning(node, valkey_url, monkeypatch, version, is_warned):
    monkeypatch.setattr(basics.sqlite3, "sqlite_version_info", version)

    rows = node.rows("check", REDIS_URL=valkey_url)

    found = [row["standing"] for row in rows if "walresetbug" in row["sentence"]]
    assert found == ["warn"] * is_warned


def test_a_setting_that_is_not_used_as_it_is_written_is_a_warning(node, valkey_url):
    given = {"DASHBOARD_PORT": "tcp://10.0.0.1:80", "REDIS_URL": f"{valkey_url}\n"}

    found = [row for row in node.rows("check", **given) if row["check"] == "settings"]

    assert [row["standing"] for row in found] == ["warn", "warn"]
    assert [row["sentence"].split()[0] for row in found] == ["DASHBOARD_PORT", "REDIS_URL"]


@pytest.mark.parametrize("command", ["check", "keys"])
def test_a_key_with_an_invisible_end_is_named(node, command):
    code = {"check": 1, "keys": 2}[command]

    result = node.run(command, code=code, PLUGSURFING_HMAC_CURRENT="current-key-0123456789 ")

    assert "PLUGSURFING_HMAC_CURRENT begins or ends with an invisible character" in " ".join(result.output.split())


def test_a_check_changes_nothing(node, valkey_url, tmp_path):
    away = tmp_path / "not" / "there"
    environment = {"DATA_DIR": str(away), "DATABASE_URL": "", "REDIS_URL": valkey_url}

    found = standings(node.rows("check", code=1, **environment))

    assert found["inbox"][0] == "ok"
    assert found["database"] == ["fail"]
    assert not away.parent.exists()


def test_a_database_without_our_tables_fails(node, postgres_url, valkey_url):
    result = node.run("check", code=1, DATABASE_URL=postgres_url, REDIS_URL=valkey_url)

    assert "webhooks migrate" in result.stdout


def test_a_database_that_does_not_answer_fails_without_its_password(node, valkey_url):
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


def test_a_weak_key_and_requests_without_signatures_are_warnings(node, valkey_url):
    rows = node.rows(
        "check",
        REDIS_URL=valkey_url,
        PLUGSURFING_HMAC_CURRENT="short",
        PLUGSURFING_HMAC_REQUIRED="false",
        PLUGSURFING_AUTHORIZATION="a credential",
    )

    assert standings(rows)["keys"] == ["warn", "warn", "ok"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_fails(node, valkey_url):
    folder = node.folder / "locked"
    folder.mkdir(mode=0o500)

    assert standings(node.rows("check", code=1, DATA_DIR=str(folder), REDIS_URL=valkey_url))["inbox"] == ["fail"]


def test_an_inbox_that_is_no_database_fails(node, valkey_url):
    Path(node.folder / "inbox.db").write_bytes(b"not a database, but as long as the header of one would be" * 10)

    assert standings(node.rows("check", code=1, REDIS_URL=valkey_url))["inbox"] == ["fail"]
