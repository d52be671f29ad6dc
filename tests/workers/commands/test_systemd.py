import configparser
import re
import shutil
import subprocess

import pytest
from click.testing import CliRunner

from workers.cli import COMMANDS, main


@pytest.fixture
def units(tmp_path):
    """The units as they are written for this machine, read."""
    ran = CliRunner(env={"HOST": "::1", "PORT": "8080"}).invoke(
        main, ["systemd", "--into", str(tmp_path / "units"), "--user", "root", "--folder", str(tmp_path)]
    )
    assert ran.exit_code == 0, ran.output
    found = {}
    for file in sorted((tmp_path / "units").iterdir()):
        found[file.name] = configparser.ConfigParser(interpolation=None, strict=True)
        found[file.name].optionxform = str
        found[file.name].read(file)
    return found


def test_every_unit_runs_a_command_that_there_is(units):
    commands = {
        name: re.search(r"/webhooks (\w+)", unit["Service"]["ExecStart"])[1]
        for name, unit in units.items()
        if name.endswith(".service")
    }
    assert commands == {
        "webhooks-serve.service": "serve",
        "webhooks-authorize.service": "authorize",
        "webhooks-work@.service": "work",
        "webhooks-clock.service": "clock",
        "webhooks-migrate.service": "migrate",
    }
    assert set(commands.values()) <= set(COMMANDS)


def test_the_socket_is_where_the_settings_say_and_lives_apart_from_the_service(units):
    assert units["webhooks-serve.socket"]["Socket"]["ListenStream"] == "[::1]:8080"
    assert units["webhooks-authorize.socket"]["Socket"]["ListenStream"] == "[::1]:8001"
    serve = units["webhooks-serve.service"]
    assert serve["Unit"]["Requires"] == "webhooks-serve.socket"
    assert serve["Service"]["Type"] == "notify"
    assert serve["Service"]["ExecReload"] == "/bin/kill -HUP $MAINPID"


@pytest.mark.parametrize("name", ["serve", "authorize"])
def test_who_opens_many_connections_does_not_use_up_a_doors_files(units, name):
    assert int(units[f"webhooks-{name}.service"]["Service"]["LimitNOFILE"]) >= 65_536


def test_what_they_keep_is_readable_by_their_user_only(units):
    services = [unit["Service"] for name, unit in units.items() if name.endswith(".service")]
    assert {service["StateDirectoryMode"] for service in services} == {"0700"}


def test_nothing_is_left_to_be_filled_in(units, tmp_path):
    assert not [file for file in (tmp_path / "units").iterdir() if re.search(r"@\w+@", file.read_text())]


def test_on_the_screen_they_stand_one_after_the_other():
    shown = CliRunner().invoke(main, ["systemd"])
    assert shown.exit_code == 0
    assert "# webhooks-serve.socket\n" in shown.output
    assert "ListenStream=127.0.0.1:8000\n" in shown.output


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="this machine has no systemd")
def test_systemd_finds_nothing_wrong_with_them(units, tmp_path):
    files = [str(tmp_path / "units" / name.replace("@.", "@1.")) for name in units]
    shutil.copy(tmp_path / "units" / "webhooks-work@.service", tmp_path / "units" / "webhooks-work@1.service")
    found = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *files], capture_output=True, text=True, check=False
    )
    assert [line for line in found.stderr.splitlines() if "webhooks-" in line] == []
