"""The terminal of `webhooks dev`: one instance a folder, free ports, the banner."""

import socket
import subprocess
import sys
import threading
from datetime import timedelta

import pytest

from ingest.errors import SettingsError
from workers.dev import dev
from workers.dev.environment import build_environment


def test_two_devs_do_not_share_a_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(dev, "OTHER_DEV_TIMEOUT", timedelta())
    with dev.single_instance(tmp_path), pytest.raises(SettingsError, match="another"), dev.single_instance(tmp_path):
        pass
    with dev.single_instance(tmp_path):
        pass


def test_a_dev_waits_for_the_children_of_one_that_was_killed(tmp_path, monkeypatch):
    with dev.single_instance(tmp_path) as lock:
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=[lock])
    with monkeypatch.context() as patch:
        patch.setattr(dev, "ORPHANS_TIMEOUT", timedelta())
        with pytest.raises(SettingsError, match="dead"), dev.single_instance(tmp_path):
            pass
    threading.Timer(0.2, child.communicate).start()
    with dev.single_instance(tmp_path):
        assert child.wait(timeout=10) is not None


def test_a_taken_port_is_refused_before_anything_starts():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=f"Port {port} is taken"):
            dev.dev(port, None, ends=False)


def test_the_banner_shows_all_addresses_and_commands_to_try():
    env = build_environment(9000)
    screen = dev.banner(env)
    for part in (
        "http://127.0.0.1:9000/plugsurfing/events",
        "http://127.0.0.1:9000/plugsurfing/cdrs",
        "http://127.0.0.1:9000/readyz",
        "curl --silent --show-error http://127.0.0.1:9001/plugsurfing/authorizations",
        f"AUTHORIZE_CREDENTIALS={env.credentials}",
        "http://127.0.0.1:9002",
        f"{env.settings.redis_url}  (embedded Valkey)",
        f"PLUGSURFING_HMAC_CURRENT={env.generated['PLUGSURFING_HMAC_CURRENT']}",
        "var/dev.env",
        "send fee-warning",
    ):
        assert part in screen


def test_the_banner_shows_no_secret_that_is_set(monkeypatch):
    monkeypatch.setenv("PLUGSURFING_HMAC_CURRENT", "a key of our own")
    monkeypatch.setenv("AUTHORIZE_CREDENTIALS", "a credential of our own")
    monkeypatch.setenv("REDIS_URL", "redis://:sesame@elsewhere:6379/1")
    screen = dev.banner(build_environment(9000))
    assert "of our own" not in screen
    assert "sesame" not in screen


def test_lines_are_printed_behind_the_name_of_their_process(capsys):
    print_line = dev.line_printer(["valkey", "work"])
    print_line("work", "one line")
    assert capsys.readouterr().out == "work   │ one line\n"


def test_paths_are_shown_relative_to_the_current_folder(tmp_path):
    assert dev.relative_path(tmp_path / "var" / "dev.env") == "var/dev.env"
    assert dev.relative_path(tmp_path.parent / "dev.env") == str(tmp_path.parent / "dev.env")
    assert dev.relative_path(type(tmp_path)(sys.executable)) == sys.executable
