"""Logging: one renderer for our own records and for those of uvicorn, RQ and every other library."""

import logging
import os
import sys
import threading
import traceback
from datetime import datetime
from typing import TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from ingest.config.sections.logging import LogFormat
from ingest.config.settings import Settings
from ingest.log_handler import NonBlockingHandler, RequestLineLimit
from ingest.telemetry.error_reports import error_reporter
from ingest.telemetry.tracing import tracing

# Both log every URL that they call, and a URL of the Drive API contains a user id.
NOISY_LOGGERS = ("httpx", "httpcore")
# These may have handlers of their own already.
LIBRARY_LOGGERS = ("uvicorn", "uvicorn.error", "uvicorn.access", "rq.worker", "rq.scheduler")


def configure_logging(settings: Settings, process: str, *, stream: TextIO | None = None) -> None:
    """Send all log records of this process, named `process`, to standard error or another stream, and errors to Sentry.

    Raise SettingsError if SENTRY_DSN is set and cannot be used.
    """
    stream = stream or sys.stderr
    level = settings.log_level.upper()
    log_format = settings.log_format or (LogFormat.CONSOLE if stream.isatty() else LogFormat.JSON)

    def with_process(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        event.setdefault("process", process)
        if tracing.is_on and "delivery" in event:
            event["trace_id"] = event["delivery"]
        return event

    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        with_process,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    if (report := error_reporter(settings)) is not None:
        shared.append(report)
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(level.lower()),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
    handler = _handler(stream)
    handler.addFilter(RequestLineLimit())
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *_renderers(log_format, stream)],
        )
    )
    logging.captureWarnings(capture=True)
    threading.excepthook = _log_dead_thread
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
    for name in LIBRARY_LOGGERS:
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [], True
    for name in NOISY_LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)
    for remark in settings.remarks:
        structlog.get_logger().warning("setting.adjusted", reason=remark)


def _log_dead_thread(ended: threading.ExceptHookArgs) -> None:
    """Log that a thread ended with an error, without its text: that may quote a body."""
    if ended.exc_type is SystemExit:
        return
    stack = "".join(traceback.format_tb(ended.exc_traceback))
    name = ended.thread.name if ended.thread is not None else None
    structlog.get_logger().error("thread.died", thread=name, error=ended.exc_type.__name__, stack=stack)


def _handler(stream: TextIO) -> logging.Handler:
    try:
        return NonBlockingHandler(stream.fileno(), stream.encoding)
    except (OSError, AttributeError):  # it is not a file of this process, as in tests, or closed
        return logging.StreamHandler(stream)


def _renderers(log_format: LogFormat, stream: TextIO) -> list[Processor]:
    # Tracebacks are plain: structlog's rich ones show local variables, which are bodies and keys.
    if log_format is LogFormat.CONSOLE:
        # `webhooks dev` reads its children through a pipe and writes to a terminal: it sets FORCE_COLOR.
        colors = stream.isatty() or bool(os.environ.get("FORCE_COLOR"))
        return [
            _console_renderer,
            structlog.dev.ConsoleRenderer(
                colors=colors, exception_formatter=structlog.dev.plain_traceback, pad_event_to=22
            ),
        ]
    return [structlog.processors.format_exc_info, _ordered_fields, structlog.processors.JSONRenderer()]


def _console_renderer(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    # In local time, and without the process: a terminal shows one process, or `dev` names it.
    del event["process"]
    event["timestamp"] = datetime.fromisoformat(event["timestamp"]).astimezone().strftime("%H:%M:%S")
    return event


def _ordered_fields(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    return {name: event.pop(name) for name in ("timestamp", "level", "event", "process")} | dict(event)
