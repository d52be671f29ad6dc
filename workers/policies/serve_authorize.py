"""The process type `authorize`: serves the authorization endpoint with the policies of all plugins until a signal."""

import gc
import signal
import sys
from types import FrameType
from typing import NoReturn

import structlog

from ingest.authorize.authorize_app import create_authorize_app
from ingest.authorize.timed_protocol import timed_protocol
from ingest.config.settings import Settings
from ingest.log import configure_logging
from ingest.server.graceful_shutdown import DrainingServer
from ingest.server.serve import uvicorn_config
from ingest.server.socket_activation import listening_sockets
from workers.ledger.database.engine import create_ledger_engine
from workers.plugins import load_plugins
from workers.policies.decision_recorder import BufferedDecisionRecorder
from workers.policies.pool import PolicyProcessPool

log = structlog.get_logger()


def authorize(settings: Settings) -> None:
    """Serve until a signal. Raise SettingsError, PluginError or SystemExit, in one sentence, if it cannot start."""
    configure_logging(settings, "authorize")
    settings.require_credentials()
    policies = load_plugins(settings).policies
    sockets = listening_sockets(settings.host, settings.authorize_port)
    recorder = BufferedDecisionRecorder(create_ledger_engine(settings.database_url))
    app = create_authorize_app(settings, PolicyProcessPool(settings, policies), recorder)
    config = uvicorn_config(app, timed_protocol(settings.authorize_timeout))
    # The event loop shares the interpreter with the recorder's thread: it must not wait 5 ms for its turn.
    sys.setswitchinterval(0.001)
    # What is loaded now stays loaded: the garbage collector need not traverse it again.
    gc.collect()
    gc.freeze()
    # uvicorn raises the signal once more when it has ended; the exit code shall be 0.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _exit_cleanly)
    host, port = sockets[0].getsockname()[:2]
    log.info("authorize.listening", host=host, port=port, policies=[policy.name for policy in policies])
    DrainingServer(config).run(sockets=sockets)


def _exit_cleanly(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(0)
