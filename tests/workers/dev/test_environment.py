"""The environment of `webhooks dev`: what is set is used, and the rest is generated."""

import subprocess
from datetime import timedelta

import pytest

from ingest.errors import SettingsError
from workers.dev.env_file import write_devfile
from workers.dev.environment import build_environment, environment_of, process_list

KEYS = ("PLUGSURFING_HMAC_CURRENT", "PLUGSURFING_HMAC_NEXT")


def keys_of(env):
    return {name: value for name, value in env.generated.items() if name in KEYS}


def test_where_nothing_is_set_everything_is_generated():
    env = build_environment(9000)
    assert (env.url, env.dashboard_url) == ("http://127.0.0.1:9000", "http://127.0.0.1:9002")
    assert env.settings.redis_url.startswith("unix:///")
    assert set(keys_of(env)) == set(KEYS)
    assert [child.name for child in process_list(env, 0)] == [
        "valkey",
        "drive",
        "work",
        "dashboard",
        "clock",
        "devices",
        "authorize",
        "serve",
    ]
    assert env.authorize_url == "http://127.0.0.1:9001"
    assert env.devices_url == "http://127.0.0.1:9004/devices"


def test_the_port_is_the_one_that_is_set(monkeypatch):
    assert build_environment(None).settings.port == 8000
    monkeypatch.setenv("PORT", "9100")
    assert build_environment(None).settings.dashboard_port == 9102


@pytest.mark.parametrize("encoding", ["utf8", "base64", "hex"])
def test_generated_keys_are_valid_in_every_encoding(encoding, monkeypatch):
    monkeypatch.setenv("PLUGSURFING_HMAC_ENCODING", encoding)
    assert set(keys_of(build_environment(9000))) == set(KEYS)


def test_generated_keys_are_the_same_the_next_time():
    first = build_environment(9000)
    write_devfile(first.settings.data_dir, first.kept)
    assert keys_of(build_environment(9000)) == keys_of(first)
    assert len(set(keys_of(first).values())) == 2


@pytest.mark.parametrize("name", KEYS)
def test_beside_a_key_that_is_set_none_is_generated(name, monkeypatch):
    monkeypatch.setenv(name, "a key of our own")
    env = build_environment(9000)
    assert keys_of(env) == {}
    assert name not in env.generated


def test_where_no_signature_is_required_no_key_is_generated(monkeypatch):
    monkeypatch.setenv("PLUGSURFING_HMAC_REQUIRED", "false")
    with pytest.raises(SettingsError, match="PLUGSURFING_AUTHORIZATION"):
        build_environment(9000)
    monkeypatch.setenv("PLUGSURFING_AUTHORIZATION", "secret")
    assert keys_of(build_environment(9000)) == {}


def test_a_redis_that_is_set_is_used(monkeypatch):
    monkeypatch.setenv("REDIS_URL", "redis://elsewhere:6379/1")
    env = build_environment(9000)
    assert not env.has_own_valkey
    assert env.settings.redis_url == "redis://elsewhere:6379/1"
    assert [child.name for child in process_list(env, 0)] == [
        "drive",
        "work",
        "dashboard",
        "clock",
        "devices",
        "authorize",
        "serve",
    ]


def test_without_a_key_of_the_drive_api_it_is_simulated(monkeypatch):
    env = build_environment(9000)
    assert env.settings.drive_api_url == "http://127.0.0.1:9005/drive"
    assert env.settings.has_drive
    assert env.settings.reconcile_after == timedelta(seconds=20)
    assert env.settings.roam_ocpi_url == "http://127.0.0.1:9005/ocpi/2.2.1/tokens"
    monkeypatch.setenv("RECONCILE_AFTER", "1h")
    assert build_environment(9000).settings.reconcile_after == timedelta(hours=1)
    monkeypatch.setenv("DRIVE_API_KEY", "a key of our own")
    env = build_environment(9000)
    assert env.settings.history_every == timedelta(hours=12)
    assert not env.has_own_drive
    assert env.settings.drive_api_url.startswith("https://drive-api-stage.plugsurfing.com")
    assert "drive" not in [child.name for child in process_list(env, 0)]


def test_devices_are_not_served_to_other_machines_without_a_token(monkeypatch):
    monkeypatch.setenv("HOST", "0.0.0.0")
    assert not build_environment(9000).serves_devices
    monkeypatch.setenv("ADMIN_TOKEN", "a token")
    assert build_environment(9000).serves_devices


def test_generated_credentials_are_the_same_the_next_time_unless_others_are_set(monkeypatch):
    first = build_environment(9000)
    write_devfile(first.settings.data_dir, first.kept)
    assert build_environment(9000).credentials == first.credentials
    monkeypatch.setenv("AUTHORIZE_CREDENTIALS", "ours\nand another")
    env = build_environment(9000)
    assert env.credentials == "ours"
    assert "AUTHORIZE_CREDENTIALS" not in env.kept


def test_the_processes_inherit_the_generated_settings(monkeypatch):
    monkeypatch.setenv("PUSH", "log")
    env = build_environment(9000)
    variables = environment_of(env)
    assert {name: variables[name] for name in env.generated} == env.generated
    assert variables["DATA_DIR"] == str(env.settings.data_dir)
    assert (variables["PUSH"], variables["LOG_FORMAT"]) == ("log", "console")


def test_the_commands_of_the_processes_exist():
    (work, *_) = process_list(build_environment(9000), 0)[1:]
    printed = subprocess.run([*work.command, "--help"], capture_output=True, text=True, check=True).stdout
    assert "webhooks" in printed or "Usage:" in printed
