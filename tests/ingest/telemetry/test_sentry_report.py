import io
import sys

import pytest
import sentry_sdk
import structlog

from ingest.config.settings import load_settings
from ingest.errors import SettingsError
from ingest.log import configure_logging
from tests.ingest.telemetry.collectors import collector

SECRET = "jane.roe@example.com"


@pytest.fixture
def received():
    with collector() as made:
        configure_logging(load_settings(sentry_dsn=f"http://key@127.0.0.1:{made.port}/1"), "work", stream=io.StringIO())
        yield made
        sentry_sdk.init()
        configure_logging(load_settings(), "work", stream=io.StringIO())


def fail():
    local = SECRET  # noqa: F841 - a local variable, which is not to be sent
    raise ValueError(SECRET)


def test_an_error_is_reported_with_its_place_and_without_texts_or_variables(received):
    try:
        fail()
    except ValueError:
        structlog.get_logger().exception("work_horse.failed", handler="audit", delivery="d1")
    sentry_sdk.flush(5)

    (event,) = received.events
    assert event["message"] == "work_horse.failed"
    assert event["fingerprint"] == ["work_horse.failed", "audit"]
    assert (event["tags"]["process"], event["tags"]["delivery"]) == ("work", "d1")
    (exception,) = event["exception"]["values"]
    assert (exception["type"], exception["value"]) == ("ValueError", "")
    assert exception["stacktrace"]["frames"][-1]["function"] == "fail"
    assert SECRET not in str(event).replace("local = SECRET", "")


def test_a_handler_that_was_given_up_is_one_problem_whatever_its_delivery(received):
    log = structlog.get_logger()
    for delivery in ("d1", "d2"):
        log.error("run.failed", handler="audit", delivery=delivery, error="KeyError", exception="Traceback …")
    sentry_sdk.flush(5)

    first, second = received.events
    assert first["fingerprint"] == second["fingerprint"] == ["run.failed", "audit", "KeyError"]
    assert first["extra"]["exception"] == "Traceback …"


def test_only_errors_are_reported(received):
    structlog.get_logger().warning("run.failed", handler="audit")
    sentry_sdk.flush(5)
    assert received.events == []


@pytest.mark.parametrize("dsn", ["nonsense", "https://sentry.example"])
def test_a_wrong_dsn_is_refused_without_being_shown(dsn):
    with pytest.raises(SettingsError, match="SENTRY_DSN") as refused:
        configure_logging(load_settings(sentry_dsn=dsn), "work", stream=io.StringIO())
    assert dsn not in str(refused.value)


def test_a_dsn_without_the_extra_is_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "sentry_sdk", None)
    with pytest.raises(SettingsError, match=r"SENTRY_DSN .*webhooks\[sentry\]"):
        configure_logging(load_settings(sentry_dsn="https://key@sentry.example/1"), "work", stream=io.StringIO())
