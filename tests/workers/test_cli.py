import os
import signal
import subprocess
import sys
import urllib.request
from importlib.metadata import version
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from workers.cli import COMMANDS, MAX_TEMPORARY_FOLDER, SECTIONS, main, prepare_environment
from workers.ledger.database.engine import create_ledger_engine
from workers.ledger.database.migrate import migrate

WEBHOOKS = str(Path(sys.executable).with_name("webhooks"))
INTERFACE = (
    "dev serve warnings work clock dashboard migrate send deliveries show session sessions pushes dead replay"
    " quarantine reverify handlers bench check keys devices alerts authorize authorizations ask systemd cdrs drive"
    " openapi audit driver stats plugin retain archive backup redact restore erase top mcp"
)

LISTS = (
    "deliveries dead show session sessions cdrs warnings pushes authorizations devices alerts quarantine keys handlers"
    " audit driver"
)
NEEDED_FOR_METRICS = ["redis", "rq"]
HEAVY = "alembic apprise firebase_admin flask httpx limits psycopg redis rq rq_dashboard starlette uvicorn"


@pytest.fixture
def environment(tmp_path, monkeypatch):
    """The environment of a node without anything but a key."""
    monkeypatch.chdir(tmp_path)
    for name in ("DATABASE_URL", "REDIS_URL"):
        monkeypatch.delenv(name, raising=False)
    return {**os.environ, "DATA_DIR": str(tmp_path / "var"), "PLUGSURFING_HMAC_CURRENT": "the-current-key-in-use"}


def webhooks(*arguments, environment, **options):
    return subprocess.run(
        [WEBHOOKS, *arguments], env=environment, capture_output=True, text=True, check=False, **options
    )


def test_help_names_every_command_in_its_section(environment):
    result = webhooks("--help", environment=environment)

    assert result.returncode == 0
    for title, entries in SECTIONS.items():
        assert f"{title}:\n" in result.stdout
        for name, entry in entries.items():
            assert f"  {name} " in result.stdout
            assert entry.sentence in result.stdout
    assert sorted(COMMANDS) == sorted(INTERFACE.split())


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_can_be_imported_and_has_help(name):
    with click.Context(main) as ctx:
        assert main.get_command(ctx, name) is not None
    result = CliRunner().invoke(main, [name, "--help"])
    assert result.exit_code == 0
    assert len(result.output.splitlines()) > 3


@pytest.mark.parametrize("name", sorted({*LISTS.split()} - {"show", "session"}))
def test_every_list_can_be_written_for_programs(name):
    shown = CliRunner().invoke(main, [name, "--help"]).output
    assert "--json" in shown
    assert "--csv" in shown


def test_help_imports_no_command():
    script = (
        "import sys; from click.testing import CliRunner; from workers.cli import main;"
        " assert CliRunner().invoke(main, ['--help']).exit_code == 0;"
        " packages = ('workers.', 'ingest', 'handlers', 'rq', 'sqlalchemy');"
        " print([name for name in sys.modules if name.startswith(packages)])"
    )

    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout

    assert loaded == "['workers.cli']\n"


@pytest.mark.parametrize("name", LISTS.split())
def test_a_list_imports_no_package_that_it_does_not_need(name):
    """Half of what a list takes on a small ledger would be their import."""
    command = f"from click import Context; from workers.cli import main; main.get_command(Context(main), '{name}')"
    script = f"import sys; {command}; print(sorted(set({HEAVY.split()!r}).intersection(sys.modules)))"

    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout

    assert loaded == (f"{NEEDED_FOR_METRICS}\n" if name == "handlers" else "[]\n")


def test_the_dashboard_starts_without_what_only_few_need():
    """They are 20 MiB: migrations, and rq-dashboard until it is opened."""
    script = (
        "import sys; from workers.commands.check.processes import check_now; import workers.console.console_server;"
        " print(sorted({'alembic', 'mako', 'flask', 'rq_dashboard'}.intersection(sys.modules)))"
    )

    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout

    assert loaded == "[]\n"


def test_serve_loads_neither_the_database_nor_plugins():
    script = (
        "import sys; from workers.cli import main; import workers.commands.processes, ingest.server.serve;"
        " print([name for name in sys.modules if name.startswith(('handlers', 'sqlalchemy', 'workers.ledg', 'rq_'))])"
    )

    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout

    assert loaded == "[]\n"


def test_the_version_is_that_of_the_package(environment):
    assert version("plugsurfing-webhooks") in webhooks("--version", environment=environment).stdout


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["no-such-command"], 2),
        (["deliveries", "--state", "odd"], 2),
        (["deliveries", "--since", "some day"], 2),
        (["deliveries"], 1),  # no ledger
        (["show", "abc"], 1),
        (["session", "abc"], 1),
        (["pushes"], 1),
        (["dead"], 1),
        (["replay", "abc"], 1),
        (["keys"], 1),
    ],
)
def test_a_failure_is_a_sentence_and_an_exit_code(environment, arguments, code):
    result = CliRunner(env=environment).invoke(main, arguments)

    assert result.exit_code == code, result.output
    assert result.stdout == ""
    assert 0 < len(result.stderr.splitlines()) <= 4


@pytest.mark.parametrize(
    "url",
    [
        {"REDIS_URL": "redis://:s3cr/etpw@host:6379/0"},
        {"REDIS_URL": "redis+sentinel://s3cr:1"},
        {"DATABASE_URL": "postgresql://u:p@host:s3cr/x"},
    ],
)
@pytest.mark.parametrize(
    "arguments",
    [["serve"], ["work"], ["clock"], ["dashboard"], ["migrate"], ["dead"], ["replay", "abc"], ["keys"]],
)
def test_every_command_refuses_an_invalid_url_without_printing_it(environment, arguments, url):
    result = CliRunner(env={**environment, **url}).invoke(main, arguments)

    assert result.exit_code == 2, result.output
    assert f"{next(iter(url))} is not a URL that can be read" in result.output
    assert "s3cr" not in result.output


@pytest.mark.parametrize("arguments", [["work"], ["work", "no-such-queue"], ["clock"]])
def test_a_process_that_cannot_start_prints_one_sentence(environment, arguments):
    result = webhooks(*arguments, environment=environment)  # without REDIS_URL

    assert result.returncode == 2, result.stderr
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    assert result.stderr.splitlines()[-1].startswith("webhooks: ")


@pytest.mark.parametrize("command", ["serve", "work", "clock", "dashboard"])
def test_a_wrong_setting_is_named_and_never_its_value(environment, command):
    result = webhooks(command, environment=environment | {"PLUGSURFING_HMAC_NEXT": "the-current-key-in-use"})

    assert result.returncode == 2
    assert result.stderr.startswith("webhooks: ")
    assert "PLUGSURFING_HMAC_NEXT" in result.stderr
    assert "the-current-key-in-use" not in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_serve_refuses_to_start_without_a_key(environment):
    del environment["PLUGSURFING_HMAC_CURRENT"]

    result = webhooks("serve", environment=environment)

    assert result.returncode == 2
    assert "PLUGSURFING_HMAC_CURRENT" in result.stderr


@pytest.mark.parametrize("command", ["deliveries", "pushes", "dead", "keys", "migrate"])
def test_an_unreachable_database_is_a_failure_without_its_password(environment, command):
    url = "postgresql://somebody:a-secret-word@127.0.0.1:1/x"

    result = CliRunner(env=environment | {"DATABASE_URL": url}).invoke(main, [command])

    assert result.exit_code == 1
    assert result.stderr.startswith("webhooks: The database cannot be used: ")
    assert "a-secret-word" not in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_database_without_tables_names_the_command_that_migrates(environment, postgres_url):
    result = CliRunner(env=environment | {"DATABASE_URL": postgres_url}).invoke(main, ["deliveries"])

    assert result.exit_code == 1
    assert "webhooks migrate" in result.stderr


def test_a_database_is_migrated_once(environment, tmp_path):
    assert "now has" in webhooks("migrate", environment=environment).stdout
    assert (tmp_path / "var" / "ledger.db").exists()
    assert CliRunner(env=environment).invoke(main, ["migrate"]).stdout == "The database has this version's tables.\n"
    assert CliRunner(env=environment).invoke(main, ["deliveries", "--json"]).output == ""


def test_tables_that_this_version_cannot_work_with_are_a_failure_in_one_sentence(environment, tmp_path):
    url = f"sqlite:///{tmp_path}/var/ledger.db"
    migrate(url)
    engine = create_ledger_engine(url)
    with engine.begin() as conn:
        conn.exec_driver_sql("UPDATE webhooks_schema_version SET version_num = '9999'")
        conn.exec_driver_sql("UPDATE ledger_identity SET compatible_from = '9999'")
    engine.dispose()
    result = CliRunner(env=environment).invoke(main, ["migrate"])
    assert (result.exit_code, result.stdout) == (1, "")
    assert "newer than this version, which cannot work with them" in result.stderr


def test_a_closed_pipe_ends_a_list_quietly(environment, tmp_path):
    migrate(f"sqlite:///{tmp_path}/var/ledger.db")
    process = subprocess.Popen(
        [WEBHOOKS, "check", "--json"], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )

    process.stdout.readline()
    process.stdout.close()

    assert process.stderr.read() == b""
    process.wait()


def test_ctrl_c_ends_a_command_quietly(monkeypatch):
    @click.command()
    def wait():
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(main, "get_command", lambda _ctx, _name: wait)

    result = CliRunner().invoke(main, ["wait"])

    assert result.exit_code == 130
    assert result.output == ""


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "localhost,127.0.0.1,::1"),
        ({"NO_PROXY": "intranet"}, "intranet,localhost,127.0.0.1,::1"),
        ({"NO_PROXY": "a", "no_proxy": "127.0.0.1,b"}, "127.0.0.1,b,localhost,::1"),
    ],
)
def test_calls_within_this_machine_use_no_proxy(given, expected, monkeypatch):
    changed = dict(given)
    prepare_environment(changed)
    prepare_environment(changed)
    assert changed == {"NO_PROXY": expected, "no_proxy": expected}
    for name, value in {**changed, "http_proxy": "http://192.0.2.1:9", "HTTP_PROXY": "http://192.0.2.1:9"}.items():
        monkeypatch.setenv(name, value)
    assert all(urllib.request.proxy_bypass(host) for host in ("127.0.0.1", "127.0.0.1:8000", "localhost"))
    assert not urllib.request.proxy_bypass("plugsurfing.com")


def test_a_temporary_folder_with_too_long_a_name_for_sockets_is_not_used():
    changed = {"TMPDIR": "/" + "a" * MAX_TEMPORARY_FOLDER, "TMP": "/short"}
    prepare_environment(changed)
    assert (changed.get("TMPDIR"), changed["TMP"]) == (None, "/short")


def test_a_terminal_that_is_not_utf_8_shows_what_it_can(environment):
    shown = webhooks("send", "--print", "--session", "ü→🚗", environment=environment | {"PYTHONIOENCODING": "ascii"})
    assert (shown.returncode, "Traceback" in shown.stderr) == (0, False), shown.stderr
    assert "SESSION_STARTED" in shown.stdout


def test_devices_serve_is_not_kept_from_starting_by_settings_of_others(environment):
    wrong = {"PUSH": "carrier pigeon", "AUTHORIZE_TIMEOUT": "soon", "HOST": "192.0.2.1"}
    refused = webhooks("devices", "serve", environment=environment | wrong)
    assert refused.returncode != 0
    assert "ADMIN_TOKEN is not set" in refused.stderr
