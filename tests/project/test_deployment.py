"""Procfile, compose.yaml, Dockerfile and .env.example agree with the commands and the settings that there are."""

import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

from ingest.config.settings import Settings, load_settings
from ingest.server.limits import ConnectionLimit
from tests.faults.cluster import wait_until
from workers.cli import COMMANDS

STORES = {"valkey", "postgres"}
NOT_OURS = STORES | {"proxy"}
WEBS = ("web-1", "web-2")
CONTAINER_PORT = 8000
FIXED_IN = (
    ("h11", "0.16", "CVE-2025-43859"),
    ("jinja2", "3.1.6", "CVE-2025-27516"),
    ("starlette", "0.49.1", "CVE-2025-62727"),
    ("werkzeug", "3.1.4", "CVE-2025-66221"),
)


@pytest.fixture(scope="module")
def procfile(root):
    lines = (root / "Procfile").read_text().splitlines()
    return {name: command.strip() for name, _, command in (line.partition(":") for line in lines)}


@pytest.fixture(scope="module")
def services(root):
    return yaml.safe_load((root / "compose.yaml").read_text())["services"]


def command_of(line: str) -> str:
    """Return the `webhooks` command of a line, without the assignments before it."""
    words = [word for word in shlex.split(line) if not re.match(r"\w+=", word)]
    assert words[0] == "webhooks"
    return words[1]


def test_the_procfile_names_every_process_type(procfile):
    commands = {name: command_of(line) for name, line in procfile.items()}
    assert commands == {
        "web": "serve",
        "authorize": "authorize",
        "worker": "work",
        "clock": "clock",
        "dashboard": "dashboard",
        "devices": "devices",
        "release": "migrate",
    }
    assert set(commands.values()) <= set(COMMANDS)


def test_the_procfile_listens_for_the_platforms_router(procfile):
    assert "HOST=${HOST:-0.0.0.0}" in procfile["web"]


def test_the_procfile_lets_the_platform_choose_the_port_of_authorize_too(procfile):
    assert "HOST=${HOST:-0.0.0.0}" in procfile["authorize"]
    assert "AUTHORIZE_PORT=${PORT:-8001}" in procfile["authorize"]


@pytest.fixture
def release(procfile, tmp_path):
    """Start the line `release` as a platform does, or honcho with the name of the process in the environment."""
    started = []

    def start(**environment):
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        command = ["sh", "-c", procfile["release"]]
        environment = {"PATH": path, "DATA_DIR": str(tmp_path), **environment}
        started.append(subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


def test_a_platform_goes_on_when_the_migration_is_done(release):
    assert release().wait(180) == 0


def test_a_migration_that_is_done_does_not_end_all_processes_of_a_local_honcho(release):
    """Which ends all when one ends, so it waits; a migration that failed ends them."""
    process = release(HONCHO_PROCESS_NAME="release.1")
    wait_until(lambda: Path(f"/proc/{process.pid}/comm").read_text().strip() == "sleep", "it waits", 180)
    assert release(HONCHO_PROCESS_NAME="release.1", DATABASE_URL="nonsense").wait(180) != 0


def test_compose_runs_what_the_procfile_names_and_the_stores(procfile, services):
    ours = {name: command_of(service["command"]) for name, service in services.items() if name not in NOT_OURS}
    commands = {name: command_of(line) for name, line in procfile.items()}
    commands["migrate"] = commands.pop("release")
    web = commands.pop("web")
    assert ours == {**commands, **dict.fromkeys(WEBS, web)}
    assert set(services) == set(ours) | NOT_OURS


def test_compose_sets_only_settings_that_exist(services):
    for name in set(services) - NOT_OURS:
        settings = {setting.lower() for setting in services[name]["environment"]}
        assert settings <= set(Settings.model_fields)


def filled_in(text, **values):
    """Return what compose makes of a text with these values in .env."""
    return re.sub(r"\$\{(\w+)(?::[-?]([^}]*))?\}", lambda found: values.get(found[1], found[2]), text)


def test_the_settings_of_compose_are_valid(services):
    environment = {
        name.lower(): filled_in(value, VALKEY_PASSWORD="secret")
        for name, value in services["web-1"]["environment"].items()
    }
    settings = load_settings(**environment)
    assert settings.port == CONTAINER_PORT
    assert settings.host == "0.0.0.0"
    assert settings.require_redis() == "redis://:secret@valkey:6379/0"
    assert settings.database_url == "postgresql+psycopg://webhooks:webhooks@postgres:5432/webhooks"


def test_valkey_requires_the_password_that_our_processes_have(services):
    words = shlex.split(services["valkey"]["command"].replace("${", "'${").replace("}", "}'"))
    demanded = words[words.index("--requirepass") + 1]
    assert demanded.startswith("${VALKEY_PASSWORD:?")
    assert f":{demanded}@" in services["web-1"]["environment"]["REDIS_URL"]
    assert filled_in(services["valkey"]["environment"]["REDISCLI_AUTH"], VALKEY_PASSWORD="secret") == "secret"


@pytest.mark.parametrize("place", ["README.md", ".env.example"])
def test_the_settings_that_compose_requires_are_documented(root, place):
    needed = set(re.findall(r"\$\{(\w+):\?", (root / "compose.yaml").read_text())) | {"PLUGSURFING_HMAC_CURRENT"}
    text = (root / place).read_text("utf-8")
    documented = re.search(r"^cp \.env\.example .+$" if place == "README.md" else r"\A(#.+\n)+", text, re.MULTILINE)
    assert needed <= set(re.findall(r"\w+", documented[0]))


def test_the_image_may_have_extras(root):
    """A read-only container cannot install them later."""
    extras = set(tomllib.loads((root / "pyproject.toml").read_text())["project"]["optional-dependencies"])
    text = (root / "Dockerfile").read_text()
    assert 'pip install --no-cache-dir ".${EXTRAS:+[$EXTRAS]}"' in text
    named = re.findall(r"^ARG EXTRAS=(\S+)$", text, re.MULTILINE)
    assert [set(each.split(",")) for each in named] == [extras - {"test"}]


@pytest.mark.parametrize("name", WEBS)
def test_serve_needs_no_store_to_start_and_has_an_inbox_of_its_own(services, name):
    web = services[name]
    assert "depends_on" not in web
    assert str(load_settings(data_dir="/data").data_dir) == web["environment"]["DATA_DIR"]
    assert web["volumes"] == [f"inbox-{name[-1]}:/data"]


def test_only_web_takes_the_word_of_the_proxy(services):
    """An address in FORWARDED_BY may name the user of the dashboard, and a published port is reached through one."""
    environments = {name: service["environment"] for name, service in services.items() if name not in NOT_OURS}
    assert {name for name, environment in environments.items() if "FORWARDED_BY" in environment} == set(WEBS)


def test_only_the_proxy_is_reached_from_outside(root, services):
    published = {name: service["ports"] for name, service in services.items() if "ports" in service}
    assert published.pop("proxy") == ["80:80", "443:443"]
    assert {port.split(":")[0] for ports in published.values() for port in ports} == {"127.0.0.1"}
    assert services["proxy"]["volumes"][0] == "./workers/deploy/Caddyfile:/etc/caddy/Caddyfile:ro"
    upstreams = re.findall(r"reverse_proxy (.+) \{$", (root / "workers/deploy/Caddyfile").read_text(), re.MULTILINE)
    ports = services["web-1"]["environment"]
    assert upstreams == [f"authorize:{ports['AUTHORIZE_PORT']}", " ".join(f"{web}:{ports['PORT']}" for web in WEBS)]


def test_authorize_needs_no_store_but_a_credential(services):
    authorize = services["authorize"]
    assert "depends_on" not in authorize
    assert "?" in authorize["environment"]["AUTHORIZE_CREDENTIALS"]


@pytest.mark.parametrize("name", ["worker", "clock"])
def test_every_process_of_the_ledger_waits_for_its_tables(services, name):
    needs = services[name]["depends_on"]
    assert needs["migrate"]["condition"] == "service_completed_successfully"
    assert {needs[store]["condition"] for store in STORES} == {"service_healthy"}


def test_nothing_of_ours_runs_with_more_rights_than_it_needs(root, services):
    for name in set(services) - NOT_OURS:
        assert services[name]["read_only"] is True
        assert services[name]["cap_drop"] == ["ALL"]
        assert services[name]["security_opt"] == ["no-new-privileges:true"]
        assert not {"user", "privileged", "cap_add", "group_add"} & set(services[name])
    stage = re.split(r"^FROM ", (root / "Dockerfile").read_text(), flags=re.MULTILINE)[-1]
    user = re.findall(r"^USER (\S+)$", stage, re.MULTILINE | re.IGNORECASE)[-1]
    assert re.search(rf"^RUN useradd --uid [1-9]\d+ .*\b{re.escape(user)} \\$", stage, re.MULTILINE)


def test_volumes_are_all_declared(root, services):
    declared = set(yaml.safe_load((root / "compose.yaml").read_text())["volumes"])
    used = {volume.split(":")[0] for service in services.values() for volume in service.get("volumes", [])}
    assert {volume for volume in used if not volume.startswith(".")} == declared


def test_valkey_has_an_append_only_file(services):
    assert "--appendonly yes" in services["valkey"]["command"]


def test_stores_and_servers_have_health_checks(services):
    assert {name for name, service in services.items() if "healthcheck" not in service} == {"migrate"}


def test_a_worker_and_a_clock_are_probed_by_what_they_report(services):
    for name, process in (("worker", "work"), ("clock", "clock")):
        assert services[name]["healthcheck"]["test"] == ["CMD", "webhooks", "check", "--live", process]


def test_the_image_contains_everything_that_the_package_is_built_from(root):
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", (root / "Dockerfile").read_text(), re.MULTILINE)
    sources = {source.rstrip("/") for line in copied for source in line.split()}
    project = tomllib.loads((root / "pyproject.toml").read_text())
    needed = set(project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"])
    needed |= {project["project"]["readme"], *project["project"]["license-files"], "pyproject.toml"}
    assert sources == needed
    included = {line[1:].rstrip("/") for line in (root / ".dockerignore").read_text().splitlines() if line[:1] == "!"}
    assert included == needed


def test_env_example_lists_every_setting_with_its_default(root):
    text = (root / ".env.example").read_text("utf-8")
    listed = re.findall(r"^# (.+)\n#(\w+)=(.*)$", text, re.MULTILINE)
    expected = [
        (one.description, one.name, "" if re.search("[`<–]", one.default) else one.default)
        for one in load_settings().describe_all()
    ]
    assert listed == expected


def test_ci_runs_the_commands_of_the_readme(root):
    lines = (root / ".ci" / "run").read_text().splitlines()
    script = "\n".join(line for line in lines if not line.startswith("#"))
    steps = ["python3 -m venv .venv", "pip install", "-e '.[test]'", "ruff check", "ruff format --check", "mypy"]
    steps += ["lint-imports", ".venv/bin/bandit", ".venv/bin/pip-audit", "pip wheel", "bare/bin/webhooks --help"]
    steps += [".venv/bin/cyclonedx-py", ".venv/bin/pytest"]
    positions = [script.index(step) for step in steps]
    assert positions == sorted(positions)
    assert (root / ".ci" / "run").stat().st_mode & 0o111


@pytest.mark.parametrize(("package", "version", "advisory"), FIXED_IN)
def test_no_version_with_a_known_vulnerability_may_be_installed(root, package, version, advisory):
    declared = map(Requirement, tomllib.loads((root / "pyproject.toml").read_text())["project"]["dependencies"])
    bounds = [bound for each in declared if each.name == package for bound in each.specifier]
    lowest = [Version(bound.version) for bound in bounds if bound.operator in {">=", "~=", "=="}]
    assert max(lowest, default=Version("0")) >= Version(version), advisory


def test_the_servers_may_open_more_files_than_they_have_connections(services):
    ours = {name: service for name, service in services.items() if name not in STORES}
    assert {name for name, service in ours.items() if service["ulimits"]["nofile"]["soft"] < 65_536} == set()
    assert ConnectionLimit(load_settings().max_connections, 65_536).most == load_settings().max_connections
