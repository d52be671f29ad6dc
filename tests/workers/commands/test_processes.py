"""The process types and what deploys them: `dev`, the units for systemd, the OpenAPI documents."""

import configparser
import importlib
import inspect
import json
import re
import shutil
import subprocess

import pytest
from click.testing import CliRunner

from ingest.errors import SettingsError
from workers.cli import COMMANDS, main
from workers.commands import processes
from workers.commands.processes import dev
from workers.dev import dev as dev_module


@pytest.fixture
def calls(monkeypatch):
    """The calls of `workers.dev.dev`."""
    found = []

    def record(port, play, *, ends):
        found.append((port, play is not None, ends))
        return 3

    monkeypatch.setattr(dev_module, "dev", record)
    return found


@pytest.mark.parametrize(
    ("arguments", "call"),
    [
        ((), (None, False, False)),
        (("--port", "9000"), (9000, False, False)),
        (("--demo",), (None, True, False)),
        (("--demo", "--exit"), (None, True, True)),
    ],
)
def test_options_of_dev_reach_it_and_its_exit_code_is_the_commands(calls, arguments, call):
    assert CliRunner().invoke(dev, arguments).exit_code == 3
    assert calls == [call]


@pytest.mark.parametrize("arguments", [("--exit",), ("--port", "0"), ("--port", "65531")])
def test_options_of_dev_that_make_no_sense_are_wrong_usage(calls, arguments):
    assert CliRunner().invoke(dev, arguments).exit_code == 2
    assert calls == []


@pytest.mark.parametrize(("error", "exit_code"), [(SettingsError("DATA_DIR is in use."), 2), (OSError("Taken."), 1)])
def test_a_dev_that_cannot_start_prints_one_sentence(monkeypatch, error, exit_code):
    def refuse(_port, _play, *, ends):
        raise error

    monkeypatch.setattr(dev_module, "dev", refuse)
    result = CliRunner().invoke(main, ["dev"])
    assert result.exit_code == exit_code
    assert result.output == f"webhooks: {error}\n"


@pytest.fixture
def units(tmp_path):
    """The units for this machine, parsed."""
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


def test_every_unit_runs_an_existing_command(units):
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


def test_the_socket_is_where_the_settings_say_and_apart_from_the_service(units):
    assert units["webhooks-serve.socket"]["Socket"]["ListenStream"] == "[::1]:8080"
    assert units["webhooks-authorize.socket"]["Socket"]["ListenStream"] == "[::1]:8001"
    serve = units["webhooks-serve.service"]
    assert serve["Unit"]["Requires"] == "webhooks-serve.socket"
    assert serve["Service"]["Type"] == "notify"
    assert serve["Service"]["ExecReload"] == "/bin/kill -HUP $MAINPID"


@pytest.mark.parametrize("name", ["serve", "authorize"])
def test_many_connections_do_not_use_up_the_files_of_a_process(units, name):
    assert int(units[f"webhooks-{name}.service"]["Service"]["LimitNOFILE"]) >= 65_536


def test_data_is_readable_by_the_user_of_the_units_only(units):
    services = [unit["Service"] for name, unit in units.items() if name.endswith(".service")]
    assert {service["StateDirectoryMode"] for service in services} == {"0700"}


def test_every_placeholder_of_a_unit_is_replaced(units, tmp_path):
    assert not [file for file in (tmp_path / "units").iterdir() if re.search(r"@\w+@", file.read_text())]


def test_without_a_folder_the_units_are_printed():
    shown = CliRunner().invoke(main, ["systemd"])
    assert shown.exit_code == 0
    assert "# webhooks-serve.socket\n" in shown.output
    assert "ListenStream=127.0.0.1:8000\n" in shown.output


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="this machine has no systemd")
def test_systemd_accepts_the_units(units, tmp_path):
    files = [str(tmp_path / "units" / name.replace("@.", "@1.")) for name in units]
    shutil.copy(tmp_path / "units" / "webhooks-work@.service", tmp_path / "units" / "webhooks-work@1.service")
    found = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *files], capture_output=True, text=True, check=False
    )
    assert [line for line in found.stderr.splitlines() if "webhooks-" in line] == []


@pytest.mark.parametrize(
    ("process", "title"),
    [
        ("authorize", "webhooks authorize"),
        ("devices", "webhooks devices serve"),
        ("dashboard", "webhooks dashboard"),
    ],
)
def test_the_openapi_document_of_each_process_is_printed(process, title):
    printed = CliRunner().invoke(main, ["openapi", process])
    assert (printed.exit_code, json.loads(printed.output)["info"]["title"]) == (0, title)


@pytest.mark.parametrize(
    ("arguments", "target", "passed"),
    [
        (["serve"], "ingest.server.serve.serve", ()),
        (["work"], "workers.execution.worker.work", ((),)),
        (["work", "urgent", "cdrs"], "workers.execution.worker.work", (("urgent", "cdrs"),)),
        (["clock"], "workers.clock.clock.clock", ()),
        (["dashboard"], "workers.console.console_server.serve_console", ()),
        (["authorize"], "workers.policies.serve_authorize.authorize", ()),
    ],
)
def test_a_process_type_starts_with_the_settings_and_its_arguments(tmp_path, monkeypatch, arguments, target, passed):
    calls = []
    monkeypatch.setattr(target, lambda settings, *given, **_: calls.append((settings.data_dir, given)))

    result = CliRunner(env={"DATA_DIR": str(tmp_path)}).invoke(main, arguments)

    assert result.exit_code == 0, result.output
    assert calls == [(tmp_path, passed)]


@pytest.mark.parametrize("arguments", [["serve", "--workers", "3"], ["serve"]])
def test_serve_with_workers_is_supervised_and_returns_its_exit_code(monkeypatch, arguments):
    home = importlib.import_module(serve_with_workers_module())
    monkeypatch.setattr(home, "serve_with_workers", lambda _settings, count: count + 1)

    assert CliRunner(env={"SERVE_WORKERS": "3"}).invoke(main, arguments).exit_code == 4


def serve_with_workers_module():
    """Return the module that `serve` imports the supervisor from."""
    return re.search(r"from (\S+) import serve_with_workers", inspect.getsource(processes))[1]


def test_options_of_a_dry_run_go_with_its_body():
    assert CliRunner().invoke(main, ["authorize", "--form", "ocpi"]).exit_code == 2


@pytest.mark.parametrize(
    ("command", "target"),
    [("serve", "ingest.server.serve.serve"), ("dashboard", "workers.console.console_server.serve_console")],
)
def test_a_process_starts_although_a_setting_of_another_is_wrong(command, target, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    started = []
    monkeypatch.setattr(target, lambda settings, **_: started.append(settings))
    result = CliRunner(env={"DRIVE_TIMEOUT": "wrong", "DASHBOARD_PORT": "9002"}).invoke(main, [command])
    assert result.exit_code == 0, result.output
    assert len(started) == 1
    result = CliRunner(env={"PORT": "wrong"}).invoke(main, [command])
    assert (result.exit_code, len(started)) == (2, 1)
    assert "PORT" in result.output


def test_migrate_needs_the_url_of_the_database_only(tmp_path):
    environment = {"DATABASE_URL": f"sqlite:///{tmp_path}/ledger.db", "PORT": "wrong"}
    result = CliRunner(env=environment).invoke(main, ["migrate"])
    assert result.exit_code == 0, result.output
