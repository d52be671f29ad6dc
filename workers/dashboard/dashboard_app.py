"""rq-dashboard on our Redis, for operators of the queues; the console serves it at /rq/, behind its login."""

import re
from base64 import b64encode
from hashlib import sha256
from json import JSONDecodeError

from flask import Flask, Response, request
from redis.exceptions import RedisError
from rq.exceptions import DeserializationError, NoSuchJobError
from rq_dashboard.cli import make_flask_app
from sqlalchemy.exc import SQLAlchemyError

from ingest.config.settings import Settings
from workers.dashboard.queue_client import client_of

INLINE_SCRIPT = re.compile(rb'<script type="text/javascript">(.*?)</script>', re.DOTALL)


def create_dashboard(settings: Settings) -> Flask:
    """Build rq-dashboard's app, without a login. Raise SettingsError if Redis is not set."""
    app: Flask = make_flask_app("workers.dashboard.rq_dashboard_patch", username=None, password=None, url_prefix="")
    url = settings.require_redis()
    app.config["RQ_DASHBOARD_REDIS_URL"] = (url,)
    app.register_error_handler(RedisError, lambda _error: ("Redis cannot be reached.", 503))  # the page polls by itself
    app.register_error_handler(NoSuchJobError, lambda _error: ("There is no such job.", 404))
    # Of a job that none of our processes has written; it is not decoded in any other way.
    for error in (DeserializationError, JSONDecodeError, UnicodeDecodeError):
        app.register_error_handler(error, lambda _error: ("There is a job that is not JSON.", 502))
    # The ledger may not be there yet, whose id the queues are named by.
    app.register_error_handler(SQLAlchemyError, lambda _error: ("The ledger cannot be reached.", 503))
    app.before_request(lambda: _connect(app, url))
    app.before_request(_refuse_acts_by_link)
    app.after_request(_restrict_scripts)
    return app


def _connect(app: Flask, url: str) -> None:
    # Not at start, as rq-dashboard does.
    if not hasattr(app, "redis_conn"):
        vars(app)["redis_conn"] = client_of(url)


def _refuse_acts_by_link() -> tuple[str, int] | None:
    """Refuse to requeue all jobs of a queue by GET, as rq-dashboard allows: any link could do it."""
    is_act = request.method in {"GET", "HEAD"} and request.path.startswith("/requeue/")
    return ("This is done by a button, not by a link.", 405) if is_act else None


def _restrict_scripts(response: Response) -> Response:
    """Allow a page its own script, by its hash, and none that a job's text might bring into it."""
    if response.mimetype != "text/html" or response.direct_passthrough:
        return response
    scripts = INLINE_SCRIPT.findall(response.get_data())
    hashes = " ".join(f"'sha256-{b64encode(sha256(script).digest()).decode()}'" for script in scripts)
    response.headers["content-security-policy"] = (
        # Its templates are compiled in the browser, and its elements have styles of their own.
        f"default-src 'none'; script-src 'self' 'unsafe-eval' {hashes}; style-src 'self' 'unsafe-inline'; "
        "img-src 'self' data:; connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    )
    return response
