import sqlite3

import pytest
from redis.exceptions import ConnectionError as RedisAway
from sqlalchemy import create_engine, text
from sqlalchemy.exc import ArgumentError, OperationalError

from ingest.errors import InboxUnavailable, SettingsError
from workers.commands.errors import Failure, error_text


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (InboxUnavailable("The disk is full."), "The disk is full."),
        (RedisAway("Error 111 connecting to redis://me:secret@h:1\nmore"), "Error 111 connecting to redis://***@h:1"),
        (
            OperationalError("SELECT 1", {}, Exception("server closed\nmore")),
            "The database cannot be used: server closed",
        ),
        (ArgumentError("Could not parse x://me:secret@h"), "DATABASE_URL is not a URL that SQLAlchemy understands."),
        (sqlite3.OperationalError("disk I/O error"), "The inbox file cannot be used: disk I/O error"),
        (FileNotFoundError(2, "No such file", "a/b"), "a/b: No such file"),
        (OSError("\x1b[2J"), "\\x1b[2J"),
        (OSError(), "OSError"),
    ],
)
def test_an_expected_error_is_one_sentence_without_a_secret(error, text):
    assert error_text(error).endswith(text)


def test_a_ledger_without_tables_names_the_command_that_makes_them():
    with create_engine("sqlite://").connect() as conn, pytest.raises(OperationalError) as failure:
        conn.execute(text("SELECT * FROM deliveries"))

    assert "webhooks migrate" in error_text(failure.value)


def test_only_wrong_settings_have_the_exit_code_of_wrong_usage():
    assert Failure.of(SettingsError("PORT is wrong.")).exit_code == 2
    assert Failure.of(InboxUnavailable()).exit_code == 1
