"""What `webhooks dev` runs, decided before anything starts: ports, stores, keys and children."""

import os
import secrets
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

from ingest.config.secrets import SIGNING_KEYS
from ingest.config.settings import Settings, load_settings
from workers.dev.child_process import ProcessSpec
from workers.dev.env_file import read_devfile
from workers.dev.valkey import LOOPBACK, valkey
from workers.net import is_loopback

AUTHORIZE_AFTER = 1
DASHBOARD_AFTER = 2
VALKEY_AFTER = 3
DEVICES_AFTER = 4
DRIVE_AFTER = 5
CREDENTIALS = "authorize_credentials"

# Against a simulated Drive API nobody should have to wait for what may take hours in earnest.
FAST_RECONCILE = {
    "RECONCILE_AFTER": "20s",
    "RECONCILE_LONGEST": "5m",
    "RECONCILE_PER_MINUTE": "2000",
    "HISTORY_EVERY": "1m",
    "HISTORY_SPAN": "1d",
}

# What a process may need to end beyond what its work may take.
GRACE = timedelta(seconds=15)


@dataclass(frozen=True)
class DevEnvironment:
    """Settings, and which of them nobody gave."""

    settings: Settings
    #: By the name of the setting: for the children's environment, and for the file beside the data.
    generated: Mapping[str, str]

    @property
    def credentials(self) -> str:
        """What whoever asks at the charger says; the first, if there are several."""
        secret = self.settings.authorize_credentials
        return "" if secret is None else secret.get_secret_value().strip().splitlines()[0].strip()

    @property
    def kept(self) -> Mapping[str, str]:
        """What is the same the next time: who was told it shall not have to be told again."""
        names = {*SIGNING_KEYS, CREDENTIALS}
        return {name: value for name, value in self.generated.items() if name.lower() in names}

    @property
    def has_own_valkey(self) -> bool:
        """Whether the queues are in a Valkey of its own."""
        return "REDIS_URL" in self.generated

    @property
    def has_own_drive(self) -> bool:
        """Whether the Drive API is simulated."""
        return "DRIVE_API_KEY" in self.generated

    @property
    def url(self) -> str:
        """Where `serve` is reached from this machine."""
        return f"http://{reachable(self.settings.host)}:{self.settings.port}"

    @property
    def authorize_url(self) -> str:
        """Where `authorize` is reached from this machine."""
        return f"http://{reachable(self.settings.host)}:{self.settings.authorize_port}"

    @property
    def serves_devices(self) -> bool:
        """Whether apps may register devices: not from outside without a token."""
        return is_loopback(self.settings.host) or self.settings.admin_token is not None

    @property
    def devices_url(self) -> str:
        """Where devices are registered from this machine."""
        return f"http://{reachable(self.settings.host)}:{self.settings.devices_port}/devices"

    @property
    def dashboard_url(self) -> str:
        """Where the dashboard is reached from this machine."""
        return f"http://{reachable(self.settings.host)}:{self.settings.dashboard_port}"


def build_environment(port: int | None) -> DevEnvironment:
    """Keep what is set and make up the rest: keys are the same as the last time. Raises SettingsError."""
    given = load_settings()
    known = read_devfile(given.data_dir)
    port = port or given.port
    made_up = {"PORT": str(port)}
    if "authorize_port" not in given.model_fields_set:
        made_up["AUTHORIZE_PORT"] = str(port + AUTHORIZE_AFTER)
    if "dashboard_port" not in given.model_fields_set:
        made_up["DASHBOARD_PORT"] = str(port + DASHBOARD_AFTER)
    if "devices_port" not in given.model_fields_set:
        made_up["DEVICES_PORT"] = str(port + DEVICES_AFTER)
    if given.redis_url is None:
        made_up["REDIS_URL"] = f"redis://{LOOPBACK}:{free_port(port + VALKEY_AFTER)}"
    if given.plugsurfing_hmac_required and not any(getattr(given, name) for name in SIGNING_KEYS):
        # In hexadecimal digits a key is good in each of the three encodings.
        made_up |= {name: known.get(name) or secrets.token_hex(32) for name in map(str.upper, SIGNING_KEYS)}
    if given.authorize_credentials is None:
        name = CREDENTIALS.upper()
        made_up[name] = known.get(name) or secrets.token_hex(16)
    if not given.has_drive:
        made_up |= simulated_drive(given, free_port(port + DRIVE_AFTER))
    settings = load_settings(**{name.lower(): value for name, value in made_up.items()})
    settings.require_signing()
    return DevEnvironment(settings, made_up)


def simulated_drive(given: Settings, port: int) -> dict[str, str]:
    """Make up what leads to a Drive API, and a Roam OCPI, of our own."""
    made_up = {
        "DRIVE_API_URL": f"http://{LOOPBACK}:{port}/drive",
        "DRIVE_API_KEY": secrets.token_hex(16),
        "ROAM_OCPI_URL": f"http://{LOOPBACK}:{port}/ocpi/2.2.1/tokens",
        "ROAM_OCPI_TOKEN": secrets.token_hex(16),
    }
    made_up |= {name: value for name, value in FAST_RECONCILE.items() if name.lower() not in given.model_fields_set}
    if given.drive_balance_path is None:
        made_up["DRIVE_BALANCE_PATH"] = "/v1/users/{user_id}/balance"
    if given.roam_ocpi_url is not None or given.roam_ocpi_token is not None:  # not ours
        made_up = {name: value for name, value in made_up.items() if not name.startswith("ROAM")}
    return made_up


def process_list(env: DevEnvironment, lock: int) -> list[ProcessSpec]:
    """List the children in the order of their start; they end the other way round, the door first.

    All hold the lock: not even after a kill -9 of `dev` does the next one open files that they have not closed.
    """
    work_ends_within = env.settings.handler_timeout + GRACE  # it finishes the job in its hands
    children = [
        *([own_process("drive", lock, "simulate")] if env.has_own_drive else []),
        own_process("work", lock, patience=work_ends_within),
        own_process("dashboard", lock),
        own_process("clock", lock),
        *([own_process("devices", lock, "serve")] if env.serves_devices else []),
        own_process("authorize", lock),
        own_process("serve", lock),
    ]
    if env.has_own_valkey:
        port = int(env.generated["REDIS_URL"].rpartition(":")[2])
        return [valkey(port, env.settings.data_dir / "valkey", held_files=(lock,)), *children]
    return children


def own_process(command: str, lock: int, *words: str, patience: timedelta = GRACE) -> ProcessSpec:
    """Describe one of our own process types."""
    # -P: a folder here that happens to be called like one of our packages must not be taken for it.
    line = (sys.executable, "-P", "-m", "workers.cli", command, *words)
    return ProcessSpec(command, line, patience, held_files=(lock,))


def environment_of(env: DevEnvironment) -> dict[str, str]:
    """Tell the children what was made up, and that people are reading what they print."""
    for_people = {"LOG_FORMAT": os.environ.get("LOG_FORMAT") or "console", "PYTHONUNBUFFERED": "1"}
    if sys.stdout.isatty():
        for_people["FORCE_COLOR"] = os.environ.get("FORCE_COLOR") or "1"
    return dict(os.environ) | {"DATA_DIR": str(env.settings.data_dir)} | dict(env.generated) | for_people


def is_free(host: str, port: int) -> bool:
    """Say whether a server could listen there."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def free_port(wanted: int) -> int:
    """Return the port that is wanted, or any other if it is taken."""
    if is_free(LOOPBACK, wanted):
        return wanted
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def reachable(host: str) -> str:
    """Turn the address that a server listens on into one that can be called."""
    host = {"0.0.0.0": LOOPBACK, "::": "::1"}.get(host, host)  # noqa: S104  nothing is bound here
    return f"[{host}]" if ":" in host else host
