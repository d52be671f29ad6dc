import socket
import stat
import subprocess
import sys
import threading
from datetime import timedelta

import pytest

from ingest.config.settings import Settings, load_settings
from ingest.errors import SettingsError
from workers.dev import dev
from workers.dev.env_file import FILE_NAME, read_devfile, settings_with_dev_defaults, write_devfile
from workers.dev.environment import build_environment, environment_of, free_port, is_free, process_list, reachable

KEYS = ("PLUGSURFING_HMAC_CURRENT", "PLUGSURFING_HMAC_NEXT")


def keys_of(house):
    return {name: value for name, value in house.generated.items() if name in KEYS}


@pytest.fixture(autouse=True)
def at_home(tmp_path, monkeypatch):
    """A folder without `.env`, and an environment without our settings."""
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.chdir(tmp_path)


# What is made up


def test_where_nothing_is_set_everything_is_made_up():
    house = build_environment(9000)
    assert (house.url, house.dashboard_url) == ("http://127.0.0.1:9000", "http://127.0.0.1:9002")
    assert house.settings.redis_url == "redis://127.0.0.1:9003"
    assert set(keys_of(house)) == set(KEYS)
    assert [child.name for child in process_list(house, 0)] == [
        "valkey",
        "drive",
        "work",
        "dashboard",
        "clock",
        "devices",
        "authorize",
        "serve",
    ]
    assert house.authorize_url == "http://127.0.0.1:9001"
    assert house.devices_url == "http://127.0.0.1:9004/devices"


def test_the_port_is_the_one_that_is_set(monkeypatch):
    assert build_environment(None).settings.port == 8000
    monkeypatch.setenv("PORT", "9100")
    assert build_environment(None).settings.dashboard_port == 9102


@pytest.mark.parametrize("encoding", ["utf8", "base64", "hex"])
def test_made_up_keys_are_good_in_every_encoding(encoding, monkeypatch):
    monkeypatch.setenv("PLUGSURFING_HMAC_ENCODING", encoding)
    assert set(keys_of(build_environment(9000))) == set(KEYS)


def test_made_up_keys_are_the_same_the_next_time():
    first = build_environment(9000)
    write_devfile(first.settings.data_dir, first.kept)
    assert keys_of(build_environment(9000)) == keys_of(first)
    assert len(set(keys_of(first).values())) == 2


@pytest.mark.parametrize("name", KEYS)
def test_beside_a_key_that_is_set_none_is_made_up(name, monkeypatch):
    monkeypatch.setenv(name, "a key of our own")
    house = build_environment(9000)
    assert keys_of(house) == {}
    assert name not in house.generated


def test_where_no_signature_is_asked_for_no_key_is_made_up(monkeypatch):
    monkeypatch.setenv("PLUGSURFING_HMAC_REQUIRED", "false")
    with pytest.raises(SettingsError, match="PLUGSURFING_AUTHORIZATION"):
        build_environment(9000)
    monkeypatch.setenv("PLUGSURFING_AUTHORIZATION", "secret")
    assert keys_of(build_environment(9000)) == {}


def test_a_redis_that_is_set_is_used(monkeypatch):
    monkeypatch.setenv("REDIS_URL", "redis://elsewhere:6379/1")
    house = build_environment(9000)
    assert not house.has_own_valkey
    assert house.settings.redis_url == "redis://elsewhere:6379/1"
    assert [child.name for child in process_list(house, 0)] == [
        "drive",
        "work",
        "dashboard",
        "clock",
        "devices",
        "authorize",
        "serve",
    ]


def test_without_a_key_of_the_drive_api_it_is_simulated(monkeypatch):
    house = build_environment(9000)
    assert house.settings.drive_api_url == "http://127.0.0.1:9005/drive"
    assert house.settings.has_drive
    assert house.settings.reconcile_after == timedelta(seconds=20)
    assert house.settings.roam_ocpi_url == "http://127.0.0.1:9005/ocpi/2.2.1/tokens"
    monkeypatch.setenv("RECONCILE_AFTER", "1h")
    assert build_environment(9000).settings.reconcile_after == timedelta(hours=1)
    monkeypatch.setenv("DRIVE_API_KEY", "a key of our own")
    house = build_environment(9000)
    assert house.settings.history_every == timedelta(hours=12)
    assert not house.has_own_drive
    assert house.settings.drive_api_url.startswith("https://drive-api-stage.plugsurfing.com")
    assert "drive" not in [child.name for child in process_list(house, 0)]


def test_devices_are_not_registered_from_outside_without_a_token(monkeypatch):
    monkeypatch.setenv("HOST", "0.0.0.0")
    assert not build_environment(9000).serves_devices
    monkeypatch.setenv("ADMIN_TOKEN", "a token")
    assert build_environment(9000).serves_devices


def test_made_up_credentials_are_the_same_the_next_time_and_give_way_to_those_that_are_set(monkeypatch):
    first = build_environment(9000)
    write_devfile(first.settings.data_dir, first.kept)
    assert build_environment(9000).credentials == first.credentials
    monkeypatch.setenv("AUTHORIZE_CREDENTIALS", "ours\nand another")
    house = build_environment(9000)
    assert house.credentials == "ours"
    assert "AUTHORIZE_CREDENTIALS" not in house.kept


def test_valkey_takes_another_port_if_its_own_is_taken():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert not is_free("127.0.0.1", port)
        assert free_port(port) != port


def test_the_children_are_told_what_was_made_up(monkeypatch):
    monkeypatch.setenv("PUSH", "log")
    house = build_environment(9000)
    told = environment_of(house)
    assert {name: told[name] for name in house.generated} == house.generated
    assert told["DATA_DIR"] == str(house.settings.data_dir)
    assert (told["PUSH"], told["LOG_FORMAT"]) == ("log", "console")


def test_our_own_children_find_the_command_line():
    (work, *_) = process_list(build_environment(9000), 0)[1:]
    said = subprocess.run([*work.command, "--help"], capture_output=True, text=True, check=True).stdout
    assert "webhooks" in said or "Usage:" in said


# What is written down


def test_only_the_owner_can_read_what_was_made_up(tmp_path):
    write_devfile(tmp_path, {"PLUGSURFING_HMAC_CURRENT": "secret="})
    assert stat.S_IMODE((tmp_path / FILE_NAME).stat().st_mode) == 0o600
    assert read_devfile(tmp_path) == {"PLUGSURFING_HMAC_CURRENT": "secret="}


def test_a_command_beside_dev_uses_what_was_made_up():
    house = build_environment(9000)
    write_devfile(house.settings.data_dir, house.generated)
    beside = settings_with_dev_defaults()
    assert (beside.port, beside.redis_url) == (9000, "redis://127.0.0.1:9003")
    assert beside.plugsurfing_hmac_current == house.settings.plugsurfing_hmac_current


def test_what_is_set_goes_before_what_was_made_up(monkeypatch):
    house = build_environment(9000)
    write_devfile(house.settings.data_dir, house.generated)
    monkeypatch.setenv("PLUGSURFING_HMAC_CURRENT", "a key of our own")
    monkeypatch.setenv("PORT", "7000")
    beside = settings_with_dev_defaults()
    assert beside.port == 7000
    assert beside.plugsurfing_hmac_current.get_secret_value() == "a key of our own"
    assert beside.plugsurfing_hmac_next is None


def test_without_a_dev_a_command_has_its_own_settings_alone():
    assert settings_with_dev_defaults() == load_settings()


# The terminal


def test_two_devs_do_not_share_a_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(dev, "ANOTHER_ENDS_WITHIN", timedelta())
    with dev.single_instance(tmp_path), pytest.raises(SettingsError, match="another"), dev.single_instance(tmp_path):
        pass
    with dev.single_instance(tmp_path):
        pass


def test_a_dev_waits_for_the_children_of_one_that_was_killed(tmp_path, monkeypatch):
    with dev.single_instance(tmp_path) as lock:
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=[lock])
    with monkeypatch.context() as patch:
        patch.setattr(dev, "ORPHANS_END_WITHIN", timedelta())
        with pytest.raises(SettingsError, match="dead"), dev.single_instance(tmp_path):
            pass
    threading.Timer(0.2, child.communicate).start()
    with dev.single_instance(tmp_path):
        assert child.wait(timeout=10) is not None


def test_a_taken_port_is_said_before_anything_starts():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=f"Port {port} is taken"):
            dev.dev(port, None, ends=False)


def test_the_first_screen_says_where_everything_is_and_what_to_type():
    house = build_environment(9000)
    screen = dev.banner(house)
    for part in (
        "http://127.0.0.1:9000/plugsurfing/events",
        "http://127.0.0.1:9000/plugsurfing/cdrs",
        "http://127.0.0.1:9000/readyz",
        "curl --silent --show-error http://127.0.0.1:9001/plugsurfing/authorizations",
        f"AUTHORIZE_CREDENTIALS={house.credentials}",
        "http://127.0.0.1:9002",
        "redis://127.0.0.1:9003  (embedded Valkey)",
        f"PLUGSURFING_HMAC_CURRENT={house.generated['PLUGSURFING_HMAC_CURRENT']}",
        "var/dev.env",
        "send fee-warning",
    ):
        assert part in screen


def test_the_first_screen_shows_no_secret_that_is_set(monkeypatch):
    monkeypatch.setenv("PLUGSURFING_HMAC_CURRENT", "a key of our own")
    monkeypatch.setenv("AUTHORIZE_CREDENTIALS", "a credential of our own")
    monkeypatch.setenv("REDIS_URL", "redis://:sesame@elsewhere:6379/1")
    screen = dev.banner(build_environment(9000))
    assert "of our own" not in screen
    assert "sesame" not in screen


def test_lines_stand_behind_the_name_of_who_says_them(capsys):
    say = dev.line_printer(["valkey", "work"])
    say("work", "one line")
    assert capsys.readouterr().out == "work   │ one line\n"


def test_addresses_are_shown_as_they_can_be_called():
    assert [reachable(host) for host in ("127.0.0.1", "0.0.0.0", "::", "example.com")] == [
        "127.0.0.1",
        "127.0.0.1",
        "[::1]",
        "example.com",
    ]


def test_paths_are_shown_as_one_would_type_them(tmp_path):
    assert dev.relative_path(tmp_path / "var" / "dev.env") == "var/dev.env"
    assert dev.relative_path(tmp_path.parent / "dev.env") == str(tmp_path.parent / "dev.env")
    assert dev.relative_path(type(tmp_path)(sys.executable)) == sys.executable
