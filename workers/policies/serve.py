"""The process type `authorize`: the lane on a socket, with the policies of all plugins, until somebody ends it."""

import gc
import signal
import sys
from types import FrameType
from typing import NoReturn

import structlog

from ingest.authorize.app import create_authorize_app
from ingest.authorize.evaluator import AllowAllEvaluator, PolicyEvaluator
from ingest.authorize.http_protocol import timed_protocol
from ingest.config.settings import Settings
from ingest.log import configure_logging
from ingest.server.graceful_shutdown import DrainingServer
from ingest.server.serve import uvicorn_config
from ingest.server.socket_activation import listening_sockets
from workers.plugins import load_plugins
from workers.policies.decision_recorder import open_recorder
from workers.policies.pool import PolicyProcessPool

log = structlog.get_logger()


def authorize(settings: Settings) -> None:
    """Serve until a signal. Raise SettingsError, PluginError or SystemExit, one sentence, if that cannot even begin."""
    configure_logging(settings, "authorize")
    settings.require_credentials()
    policies = load_plugins(settings).policies
    sockets = listening_sockets(settings.host, settings.authorize_port)
    judges: PolicyEvaluator = PolicyProcessPool(settings, policies) if policies else AllowAllEvaluator()
    lane = create_authorize_app(settings, judges, open_recorder(settings))
    config = uvicorn_config(lane, timed_protocol(settings.authorize_timeout))
    # The loop that answers shares the interpreter with the thread that records: it shall not wait 5 ms for its turn.
    sys.setswitchinterval(0.001)
    # What is here now stays: the collector need not look at it again and again.
    gc.collect()
    gc.freeze()
    # uvicorn raises the signal once more when it has ended; the process shall end as one that did what it was told.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _exit_cleanly)
    host, port = sockets[0].getsockname()[:2]
    log.info("lane.opened", host=host, port=port, policies=[policy.name for policy in policies])
    DrainingServer(config).run(sockets=sockets)


def _exit_cleanly(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(0)
