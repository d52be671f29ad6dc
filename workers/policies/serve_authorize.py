"""The process type `authorize`: serves the authorization endpoint with the policies of all plugins until a signal."""

import sys

import structlog

from ingest.authorize.authorize_app import create_authorize_app
from ingest.authorize.timed_protocol import timed_protocol
from ingest.config.settings import Settings
from ingest.log import configure_logging
from ingest.server.graceful_shutdown import DrainingServer
from ingest.server.serve import prepare_process, uvicorn_config
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
    config = uvicorn_config(app, settings, timed_protocol(settings.authorize_timeout))
    # The event loop shares the interpreter with the recorder's thread: it must not wait 5 ms for its turn.
    sys.setswitchinterval(0.001)
    prepare_process()
    host, port = sockets[0].getsockname()[:2]
    log.info("authorize.listening", host=host, port=port, policies=[policy.name for policy in policies])
    DrainingServer(config).run(sockets=sockets)
