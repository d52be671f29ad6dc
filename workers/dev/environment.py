"""The environment of `webhooks dev`, decided before anything starts: ports, stores, keys and processes."""

import os
import secrets
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from ingest.config.secrets import SIGNING_KEYS
from ingest.config.settings import Settings, load_settings
from workers.dev.child_process import ProcessSpec
from workers.dev.env_file import read_devfile
from workers.dev.valkey import socket_path, valkey
from workers.net import LOOPBACK, free_port, is_loopback, reachable

# The ports beside PORT.
PORT_OFFSETS = {"AUTHORIZE_PORT": 1, "DASHBOARD_PORT": 2, "METRICS_PORT": 3, "DEVICES_PORT": 4}
DRIVE_OFFSET = 5
CREDENTIALS = "authorize_credentials"

# Against the simulated Drive API, intervals of hours in production are shortened.
FAST_RECONCILE = {
    "RECONCILE_AFTER": "20s",
    "RECONCILE_LONGEST": "5m",
    "RECONCILE_PER_MINUTE": "2000",
    "HISTORY_EVERY": "1m",
    "HISTORY_SPAN": "1d",
}

# How much longer than its work a process may take to end.
STOP_MARGIN = timedelta(seconds=15)


@dataclass(frozen=True)
class DevEnvironment:
    """The settings, and those of them that were generated."""

    settings: Settings
    #: By the name of the setting: for the environment of the processes, and for the file in DATA_DIR.
    generated: Mapping[str, str]

    @property
    def credentials(self) -> str:
        """The first of AUTHORIZE_CREDENTIALS."""
        secret = self.settings.authorize_credentials
        return "" if secret is None else secret.get_secret_value().strip().splitlines()[0].strip()

    @property
    def kept(self) -> Mapping[str, str]:
        """The generated secrets, which the next run uses again: others may have been given them."""
        names = {*SIGNING_KEYS, CREDENTIALS}
        return {name: value for name, value in self.generated.items() if name.lower() in names}

    @property
    def has_own_valkey(self) -> bool:
        """Whether the queues are in an embedded Valkey."""
        return "REDIS_URL" in self.generated

    @property
    def has_own_drive(self) -> bool:
        """Whether the Drive API is simulated."""
        return "DRIVE_API_KEY" in self.generated

    @property
    def url(self) -> str:
        """The URL of `serve` on this machine."""
        return self._url(self.settings.port)

    @property
    def authorize_url(self) -> str:
        """The URL of `authorize` on this machine."""
        return self._url(self.settings.authorize_port)

    @property
    def dashboard_url(self) -> str:
        """The URL of the dashboard on this machine."""
        return self._url(self.settings.dashboard_port)

    @property
    def metrics_url(self) -> str:
        """The URL on this machine of the metrics of workers, clock and ledger."""
        return f"{self._url(self.settings.metrics_port)}/metrics"

    @property
    def serves_devices(self) -> bool:
        """Whether apps may register devices: from other machines only with a token."""
        return is_loopback(self.settings.host) or self.settings.admin_token is not None

    @property
    def devices_url(self) -> str:
        """The URL on this machine where devices are registered."""
        return f"{self._url(self.settings.devices_port)}/devices"

    def _url(self, port: int) -> str:
        return f"http://{reachable(self.settings.host)}:{port}"


def build_environment(port: int | None) -> DevEnvironment:
    """Load the settings and generate what is not set; secrets are those of the last run. Raises SettingsError."""
    given = load_settings()
    known = read_devfile(given.data_dir)
    port = port or given.port
    generated = {"PORT": str(port)}
    generated |= {
        name: str(port + offset) for name, offset in PORT_OFFSETS.items() if name.lower() not in given.model_fields_set
    }
    if given.redis_url is None:
        generated["REDIS_URL"] = f"unix://{quote(str(socket_path(_valkey_folder(given))))}"
    if given.plugsurfing_hmac_required and not any(getattr(given, name) for name in SIGNING_KEYS):
        # A key of hexadecimal digits is valid in each of the three encodings.
        generated |= {name: known.get(name) or secrets.token_hex(32) for name in map(str.upper, SIGNING_KEYS)}
    if given.authorize_credentials is None:
        name = CREDENTIALS.upper()
        generated[name] = known.get(name) or secrets.token_hex(16)
    if not given.has_drive:
        generated |= simulated_drive(given, free_port(port + DRIVE_OFFSET))
    settings = load_settings(**{name.lower(): value for name, value in generated.items()})
    settings.require_signing()
    return DevEnvironment(settings, generated)


def simulated_drive(given: Settings, port: int) -> dict[str, str]:
    """Return the settings that lead to a simulated Drive API and Roam OCPI."""
    generated = {
        "DRIVE_API_URL": f"http://{LOOPBACK}:{port}/drive",
        "DRIVE_API_KEY": secrets.token_hex(16),
        "ROAM_OCPI_URL": f"http://{LOOPBACK}:{port}/ocpi/2.2.1/tokens",
        "ROAM_OCPI_TOKEN": secrets.token_hex(16),
    }
    generated |= {name: value for name, value in FAST_RECONCILE.items() if name.lower() not in given.model_fields_set}
    if given.drive_balance_path is None:
        generated["DRIVE_BALANCE_PATH"] = "/v1/users/{user_id}/balance"
    if given.roam_ocpi_url is not None or given.roam_ocpi_token is not None:  # a real one is set
        generated = {name: value for name, value in generated.items() if not name.startswith("ROAM")}
    return generated


def process_list(env: DevEnvironment, lock: int) -> list[ProcessSpec]:
    """List the processes in the order of their start.

    They are stopped together, as none waits for another: `serve` keeps on its own what no worker takes any more. Only
    Valkey, which all of them use, outlives them.

    All inherit the lock, so that the next `dev`, even after a kill -9, opens no file that they have not closed.
    """
    work_timeout = env.settings.handler_timeout + STOP_MARGIN  # it finishes its running job
    processes = [
        *([own_process("drive", lock, "simulate")] if env.has_own_drive else []),
        own_process("work", lock, "--traceback", stop_timeout=work_timeout),
        own_process("dashboard", lock),
        own_process("clock", lock),
        *([own_process("devices", lock, "serve")] if env.serves_devices else []),
        own_process("authorize", lock),
        own_process("serve", lock),
    ]
    if env.has_own_valkey:
        path = Path(unquote(urlsplit(env.generated["REDIS_URL"]).path))
        return [valkey(path, _valkey_folder(env.settings), held_files=(lock,)), *processes]
    return processes


def own_process(command: str, lock: int, *arguments: str, stop_timeout: timedelta = STOP_MARGIN) -> ProcessSpec:
    """Return one of our own process types."""
    # -P: a folder here that has the name of one of our packages must not be imported instead.
    line = (sys.executable, "-P", "-m", "workers.cli", command, *arguments)
    return ProcessSpec(command, line, stop_timeout, held_files=(lock,))


def environment_of(env: DevEnvironment) -> dict[str, str]:
    """Return the environment variables of the processes: the generated settings, and logs for people."""
    logs = {"LOG_FORMAT": os.environ.get("LOG_FORMAT") or "console", "PYTHONUNBUFFERED": "1"}
    if sys.stdout.isatty():
        logs["FORCE_COLOR"] = os.environ.get("FORCE_COLOR") or "1"
    return dict(os.environ) | {"DATA_DIR": str(env.settings.data_dir)} | dict(env.generated) | logs


def _valkey_folder(settings: Settings) -> Path:
    return settings.data_dir / "valkey"
