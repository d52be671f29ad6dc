"""The simulated Drive API as a process, and where it is beside `webhooks dev`."""

import signal
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

import structlog
import uvicorn

from ingest.config.settings import Settings
from ingest.log import configure_logging
from ingest.simulator.drive.app import DRIVE_KEY, ROAM_TOKEN, Credentials, create_drive
from ingest.simulator.drive.faults import DriveFaults
from ingest.simulator.drive.state import DriveState
from workers.dev.env_file import read_devfile
from workers.dev.valkey import LOOPBACK

log = structlog.get_logger()

PORT = 8005
ENDS_WITHIN = timedelta(seconds=1)


def simulate(settings: Settings, *, port: int | None, seed: int, faults: DriveFaults) -> None:
    """Serve it until SIGTERM or SIGINT, on this machine only; its sessions outlive it in a file in DATA_DIR."""
    configure_logging(settings, "drive")
    world = DriveState(seed, file_of(settings))
    app = create_drive(world, faults, credentials=credentials_of(settings))
    config = uvicorn.Config(
        app,
        host=LOOPBACK,
        port=port or port_of(settings),
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=round(ENDS_WITHIN.total_seconds()),
    )
    server = uvicorn.Server(config)
    log.info("drive.simulated", port=config.port, sessions=len(world.sessions))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, server.handle_exit)
    server.run()


def credentials_of(settings: Settings) -> Credentials:
    """Take the keys that our own processes will use."""
    key, token = settings.drive_api_key, settings.roam_ocpi_token
    return Credentials(
        api_key=key.get_secret_value() if key else DRIVE_KEY,
        roam_token=token.get_secret_value() if token else ROAM_TOKEN,
    )


def file_of(settings: Settings) -> Path:
    """Say where it keeps its sessions."""
    return settings.data_dir / "simulator" / "sessions.jsonl"


def port_of(settings: Settings) -> int:
    """Take the port of DRIVE_API_URL, if that is on this machine."""
    parts = urlsplit(settings.drive_api_url)
    return parts.port or PORT if parts.hostname == LOOPBACK else PORT


def simulated_url(settings: Settings) -> str | None:
    """Say where the simulated Drive API of a running `webhooks dev` is; None if there is none."""
    url = read_devfile(settings.data_dir).get("DRIVE_API_URL")
    return url if url == settings.drive_api_url else None
