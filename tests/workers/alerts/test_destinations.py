"""Destinations of alerts: each call has a result by its deadline, and no result reveals a URL."""

import logging
import threading
from collections.abc import Callable
from datetime import timedelta

import pytest

from ingest.config.settings import load_settings
from ingest.errors import SettingsError
from workers.alerts.destinations import HANGING, MAX_HUNG_CALLS, NOT_ACCEPTED, Destination, open_destinations
from workers.resilience.guarded_call import deadline_in

URL = "json://localhost/a-secret-token"
LONG, SHORT = timedelta(seconds=20), timedelta(milliseconds=10)


def destination(send: Callable[[str, str], bool]) -> Destination:
    return Destination(URL, "json", send)


def test_an_accepted_call_has_no_reason() -> None:
    sent: list[tuple[str, str]] = []
    result = destination(lambda *texts: sent.append(texts) is None).start("title", "body").result(deadline_in(LONG))
    assert (result.is_accepted, result.reason, sent) == (True, None, [("title", "body")])


def test_a_refused_call_has_what_apprise_logged_as_its_details() -> None:
    open_destinations(load_settings(alert_urls=URL))  # captures the log of Apprise

    def refuse(_title: str, _body: str) -> bool:
        logging.getLogger("apprise").warning("A connection error.")
        return False

    result = destination(refuse).start("title", "body").result(deadline_in(LONG))
    assert (result.is_accepted, result.reason, result.details) == (False, NOT_ACCEPTED, "A connection error.")


@pytest.mark.parametrize("raised", [KeyError(URL), SystemExit(URL)])
def test_a_call_that_raises_is_named_by_its_type(raised: BaseException) -> None:
    def fail(_title: str, _body: str) -> bool:
        raise raised

    result = destination(fail).start("title", "body").result(deadline_in(LONG))
    assert (result.is_accepted, result.reason) == (False, type(raised).__name__)


def test_calls_that_hang_are_bounded() -> None:
    released = threading.Event()
    hanging = destination(lambda *_texts: released.wait(20))
    calls = [hanging.start("title", "body") for _ in range(MAX_HUNG_CALLS + 1)]
    reasons = [call.result(deadline_in(SHORT)).reason for call in calls]
    assert reasons == [*["there was no answer in time"] * MAX_HUNG_CALLS, HANGING]
    released.set()
    for call in calls[:-1]:
        assert call.call is not None
        call.call.join()
    assert hanging.start("title", "body").result(deadline_in(LONG)).is_accepted


def test_each_url_is_opened_once_and_named_without_its_token() -> None:
    found = open_destinations(load_settings(alert_urls=f"{URL} {URL} jsons://localhost/b"))
    assert [each.service for each in found] == ["json", "jsons"]
    assert all("token" not in each.name for each in found)


def test_without_a_setting_there_is_none() -> None:
    assert open_destinations(load_settings()) == ()


@pytest.mark.parametrize(
    ("urls", "sentence"),
    [
        ("json://localhost nonsense://a-secret", "ALERT_URLS: number 2 is not a URL that Apprise knows"),
        (" ", "ALERT_URLS is set, but empty"),
    ],
)
def test_a_bad_setting_is_refused_without_quoting_it(urls: str, sentence: str) -> None:
    with pytest.raises(SettingsError, match=sentence) as refused:
        open_destinations(load_settings(alert_urls=urls))
    assert "a-secret" not in str(refused.value)


def test_without_the_extra_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(SettingsError, match=r"plugsurfing-webhooks\[alerts\]"):
        open_destinations(load_settings(alert_urls=URL))
