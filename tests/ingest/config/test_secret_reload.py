"""A value that is read on demand goes by the modification time of its file."""

import os
import time

import pytest
import structlog

from ingest.config.secret_reload import SETTLE_TIME, ReloadableSecrets
from ingest.config.settings import load_settings
from ingest.errors import SettingsError


def parse(texts):
    text = texts["drive_api_key"].get_secret_value()
    if not text.strip():
        raise SettingsError("DRIVE_API_KEY is not set.")
    return text.lower()


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "key"
    path.write_text("First")
    return path


@pytest.fixture
def secret(file):
    return ReloadableSecrets(load_settings(drive_api_key_file=file), ["drive_api_key"], parse, polled=False)


def write(file, text, *, age):
    file.write_text(text)
    os.utime(file, (time.time() - age, time.time() - age))


def test_a_file_that_was_changed_some_time_ago_is_used_at_once(file, secret):
    write(file, "Second", age=SETTLE_TIME * 2)
    assert secret.refresh() == ["DRIVE_API_KEY"]
    assert secret.now == "second"
    assert secret.refresh() == []


def test_a_file_that_was_just_written_is_not_used_yet(file, secret):
    write(file, "Sec", age=0)
    assert secret.refresh() == []
    assert secret.now == "first"


def test_another_spelling_of_the_same_value_is_no_change(file, secret):
    write(file, "FIRST", age=60)
    assert secret.refresh() == []
    assert secret.now == "first"


@pytest.mark.parametrize("damage", [lambda file: file.unlink(), lambda file: write(file, " ", age=60)])
def test_an_invalid_file_leaves_the_old_value_and_one_warning(file, secret, damage):
    damage(file)
    with structlog.testing.capture_logs() as logs:
        assert [secret.refresh() for _ in range(3)] == [[]] * 3
    assert secret.now == "first"
    assert [entry["event"] for entry in logs] == ["keys.kept_old"]


def test_a_file_that_vanishes_before_its_time_is_read_leaves_the_old_value(file, secret, monkeypatch):
    monkeypatch.setattr("ingest.config.secret_reload.read_secret", lambda *_: "other")
    file.unlink()
    with structlog.testing.capture_logs() as logs:
        assert secret.refresh() == []
    assert (secret.now, logs[0]["reason"]) == ("first", "FileNotFoundError")


def test_an_invalid_value_is_refused_at_the_start(file):
    file.write_text(" ")
    with pytest.raises(SettingsError, match="DRIVE_API_KEY"):
        ReloadableSecrets(load_settings(drive_api_key_file=file), ["drive_api_key"], parse)
