"""Run the simulated Drive API as a process, and control one that runs."""

import signal
import time
from collections.abc import Sequence
from datetime import timedelta
from urllib.parse import urlsplit

import httpx
import structlog
import uvicorn

from ingest.config.settings import Settings
from ingest.errors import WebhooksError
from ingest.log import configure_logging
from ingest.server.socket_activation import listen
from ingest.simulator.drive.drive_app import DRIVE_KEY, ROAM_TOKEN, DriveCredentials, create_drive
from ingest.simulator.drive.drive_faults import DriveFaults
from ingest.simulator.drive.state import DriveState, SessionState, dump_sessions, parse_sessions
from workers.dev.env_file import read_devfile
from workers.net import LOOPBACK

log = structlog.get_logger()

PORT = 8005
SHUTDOWN_TIMEOUT = timedelta(seconds=1)
REQUEST_TIMEOUT = 30.0
STARTUP_TIMEOUT = 5.0
POLL_EVERY = 0.1
SESSIONS_AT_ONCE = 1000


class SimulatorNotRunning(WebhooksError):
    """Raised when no simulated Drive API responds at a URL."""

    def __init__(self, url: str) -> None:
        super().__init__(
            f"There is no simulated Drive API at {url}: `webhooks dev` and `webhooks drive simulate` are one."
        )


def simulate(settings: Settings, *, port: int | None, seed: int, faults: DriveFaults) -> None:
    """Serve it on this machine until SIGTERM or SIGINT; its sessions survive in a file in DATA_DIR.

    Raise SystemExit with one sentence if the port is taken.
    """
    listening = listen(LOOPBACK, port or default_port(settings))
    configure_logging(settings, "drive")
    state = DriveState(seed, settings.data_dir / "simulator" / "sessions.jsonl")
    key, token = settings.drive_api_key, settings.roam_ocpi_token
    credentials = DriveCredentials(
        api_key=key.get_secret_value() if key else DRIVE_KEY,
        roam_token=token.get_secret_value() if token else ROAM_TOKEN,
    )
    config = uvicorn.Config(
        create_drive(state, faults, credentials=credentials),
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=round(SHUTDOWN_TIMEOUT.total_seconds()),
    )
    server = uvicorn.Server(config)
    log.info("drive.simulator_started", port=listening.getsockname()[1], sessions=len(state.sessions))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, server.handle_exit)
    server.run([listening])


def default_port(settings: Settings) -> int:
    """Return the port of DRIVE_API_URL if that is on this machine, else 8005."""
    parts = urlsplit(settings.drive_api_url)
    return parts.port or PORT if parts.hostname == LOOPBACK else PORT


def simulated_url(settings: Settings) -> str | None:
    """Return the URL of the simulated Drive API of a running `webhooks dev`; None if there is none."""
    url = read_devfile(settings.data_dir).get("DRIVE_API_URL")
    return url if url == settings.drive_api_url else None


def push_sessions(url: str, sessions: Sequence[SessionState]) -> None:
    """Send what really happens in sessions. Raise SimulatorNotRunning, as the functions below do."""
    for start in range(0, len(sessions), SESSIONS_AT_ONCE):
        _request(url, "PUT", "sessions", dump_sessions(sessions[start : start + SESSIONS_AT_ONCE]))


def fetch_sessions(url: str) -> list[SessionState]:
    """Return what really happened in all sessions."""
    try:
        return parse_sessions(_request(url, "GET", "sessions"))
    except ValueError:
        raise SimulatorNotRunning(url) from None


def set_faults(url: str, faults: str) -> None:
    """Set the faults, as in `500:0.1,slow`; an empty text ends them."""
    _request(url, "PUT", "faults", faults.encode())


def _request(url: str, method: str, resource: str, content: bytes | None = None) -> bytes:
    address = f"{url.rstrip('/').removesuffix('/drive')}/simulator/{resource}"
    until = time.monotonic() + STARTUP_TIMEOUT
    while True:
        try:
            response = httpx.request(method, address, content=content, timeout=REQUEST_TIMEOUT)
            break
        except httpx.TransportError:
            if time.monotonic() > until:
                raise SimulatorNotRunning(url) from None
            time.sleep(POLL_EVERY)  # `webhooks dev` may have just started
    if response.status_code != httpx.codes.OK:
        raise SimulatorNotRunning(url)
    return response.content
