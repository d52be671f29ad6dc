import io
import json
import logging
import re
import sys
import threading
import warnings
from datetime import datetime, timedelta

import pytest
import structlog

from ingest.config.settings import load_settings
from ingest.log import configure_logging
from ingest.telemetry.tracing import tracing

SECRETS = {
    "plugsurfing_hmac_current": "open-sesame-1",
    "plugsurfing_hmac_next": "open-sesame-2",
    "plugsurfing_authorization": "Bearer open-sesame-3",
    "dashboard_password": "open-sesame-4",
    "redis_url": "redis://:open-sesame-5@host",
    "database_url": "postgresql://user:open-sesame-6@host/db",
}


class Terminal(io.StringIO):
    def isatty(self):
        return True


def configured(stream=None, **overrides):
    stream = stream or io.StringIO()
    configure_logging(load_settings(**overrides), "serve", stream=stream)
    return stream


def lines(stream):
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_record_is_one_json_object_with_time_level_event_process_and_fields():
    stream = configured()
    structlog.get_logger().info("delivery.kept", delivery="d1", count=3)
    (record,) = lines(stream)
    assert list(record)[:4] == ["timestamp", "level", "event", "process"]
    assert datetime.fromisoformat(record.pop("timestamp")).utcoffset() == timedelta(0)
    assert record == {"level": "info", "event": "delivery.kept", "process": "serve", "delivery": "d1", "count": 3}


def test_a_setting_that_is_not_used_as_it_is_written_is_one_warning(monkeypatch):
    monkeypatch.setenv("DASHBOARD_PORT", "tcp://10.0.0.1:80")
    (record,) = lines(configured())
    assert (record["level"], record["event"]) == ("warning", "setting.adjusted")
    assert record["reason"] == "DASHBOARD_PORT is a service link of Kubernetes or Docker, and ignored."


@pytest.mark.parametrize("name", ["uvicorn.error", "rq.worker", "alembic.runtime.migration", "anything"])
def test_records_of_libraries_look_like_ours(name):
    logger = logging.getLogger(name)
    logger.addHandler(logging.NullHandler())
    stream = configured(log_level="debug")
    logger.warning("started %s", 5, extra={"color_message": "x"})
    (record,) = lines(stream)
    assert record | {"timestamp": ""} == {"timestamp": "", "level": "warning", "event": "started 5", "process": "serve"}
    logger.handlers = []


def test_rq_adds_no_handlers_of_its_own():
    from rq.logutils import setup_loghandlers  # noqa: PLC0415 - only this test needs RQ

    stream = configured()
    setup_loghandlers("INFO")
    logging.getLogger("rq.worker").info("listening")
    assert [record["event"] for record in lines(stream)] == ["listening"]


def test_bound_fields_are_in_every_record():
    stream = configured()
    with structlog.contextvars.bound_contextvars(delivery="d1"):
        structlog.get_logger().info("run.started")
        logging.getLogger("library").warning("hm")
    assert [record["delivery"] for record in lines(stream)] == ["d1", "d1"]


def test_a_record_about_a_delivery_has_the_id_of_its_trace_while_it_is_traced(monkeypatch):
    stream = configured()
    structlog.get_logger().info("run.failed", delivery="d1")
    monkeypatch.setattr(tracing, "is_on", True)
    structlog.get_logger().info("run.failed", delivery="d1")
    structlog.get_logger().info("relay.started")
    assert [record.get("trace_id") for record in lines(stream)] == [None, "d1", None]


def test_records_below_the_level_are_dropped():
    stream = configured(log_level="warning")
    structlog.get_logger().info("too.quiet")
    logging.getLogger("library").info("too quiet")
    structlog.get_logger().warning("loud.enough")
    assert [record["event"] for record in lines(stream)] == ["loud.enough"]


def test_urls_of_outgoing_requests_are_not_logged():
    stream = configured(log_level="debug")
    logging.getLogger("httpx").info("GET https://host/v1/users/user1/sessions/s1")
    assert stream.getvalue() == ""


def test_a_python_warning_is_a_record():
    stream = configured()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(capture=True)
        warnings.warn("old", stacklevel=1)
    (record,) = lines(stream)
    assert (record["level"], "UserWarning: old" in record["event"]) == ("warning", True)


def fail():
    body = "open-sesame-7"
    raise RuntimeError(f"no luck with {len(body)} characters")


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_an_exception_is_one_block_without_local_variables(log_format):
    stream = configured(log_format=log_format)
    try:
        fail()
    except RuntimeError:
        structlog.get_logger().exception("run.failed")
        logging.getLogger("library").exception("failed")
    written = stream.getvalue()
    assert written.count("Traceback (most recent call last):") == 2
    assert written.count("RuntimeError: no luck with 13 characters") == 2
    assert written.count("open-sesame") == written.count('body = "open-sesame-7"')
    if log_format == "json":
        assert [record["level"] for record in lines(stream)] == ["error", "error"]


def test_a_terminal_gets_console_lines_and_everything_else_json():
    terminal = configured(Terminal())
    structlog.get_logger().info("delivery.kept", delivery="d1")
    assert "delivery.kept" in terminal.getvalue()
    assert not terminal.getvalue().startswith("{")
    terminal = configured(Terminal(), log_format="json")
    structlog.get_logger().info("delivery.kept")
    assert lines(terminal)[0]["event"] == "delivery.kept"


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_secrets_are_never_logged(log_format):
    stream = configured(log_format=log_format, log_level="debug", **SECRETS)
    settings = load_settings(**SECRETS)
    log = structlog.get_logger()
    log.info("settings.read", settings=settings, key=settings.plugsurfing_hmac_current)
    log.info("settings.read", password=[settings.dashboard_password], also={"key": settings.plugsurfing_hmac_next})
    log.info(str(settings))
    logging.getLogger("library").info("%r %s", settings, settings.plugsurfing_authorization)
    log.error("start.failed", exc_info=RuntimeError(settings))
    assert stream.getvalue().count("settings.read") == 2
    assert "open-sesame" not in stream.getvalue()


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_a_lone_surrogate_does_not_break_the_line(log_format):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="backslashreplace", write_through=True)
    configured(stream, log_format=log_format)
    structlog.get_logger().info("odd.seen", text="\ud800 Ü", raw=b"\xff", thing=object())
    stream.seek(0)
    assert "odd.seen" in stream.read()


def test_a_console_line_has_the_local_time_and_not_the_process():
    stream = configured(log_format="console")
    structlog.get_logger().info("delivery.kept", count=3)
    assert re.fullmatch(r"\d\d:\d\d:\d\d \[info +\] delivery\.kept +count=3\n", stream.getvalue())


def test_force_color_colours_a_console_that_is_not_a_terminal(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    stream = configured(log_format="console")
    structlog.get_logger().info("delivery.kept")
    assert "\x1b[" in stream.getvalue()


def test_a_thread_that_dies_is_a_line_without_the_text_of_its_error():
    stream = configured()

    text = "a body"

    def fail():
        raise ValueError(text)

    for function in (fail, sys.exit):
        thread = threading.Thread(target=function, name="writer")
        thread.start()
        thread.join()
    (line,) = lines(stream)
    found = (line["event"], line["level"], line["thread"], line["error"])
    assert found == ("thread.died", "error", "writer", "ValueError")
    assert "in fail" in line["stack"]
    assert text not in stream.getvalue()
