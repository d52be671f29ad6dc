"""The addresses of ALERT_URLS: whatever Apprise can send to, called without trusting it to come back."""

import importlib
import importlib.util
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256

from ingest.config.settings import Settings
from ingest.errors import SettingsError

MAX_HUNG_CALLS = 3
"""Calls that have not come back, beyond which an address is not called again before one of them does."""

TOO_LATE = "there was no answer in time"
HANGING = "earlier calls have not come back yet"
NOT_TAKEN = "it was not taken"

#: What Apprise sends with writes URLs into the log, and the tokens are in the URLs.
NOISY_LOGGERS = ("urllib3", "requests", "requests_oauthlib", "oauthlib")

Send = Callable[[str, str], bool]
"""Sends a title and a body, and says whether it was taken."""


@dataclass(frozen=True, slots=True)
class SendResult:
    """What came of a call."""

    is_taken: bool
    reason: str | None = None
    #: What Apprise says about it. It may quote an address, so it is for a person and not for the log.
    details: str | None = None


class TimedCall:
    """A call that has been begun. Its thread is a daemon: a process that ends does not wait for it."""

    def __init__(self, send: Send, title: str, body: str) -> None:
        self._answer = SendResult(is_taken=False, reason=TOO_LATE)
        self._thread = threading.Thread(target=self._make, args=(send, title, body), name="alert", daemon=True)
        self._thread.start()

    @property
    def is_running(self) -> bool:
        """Whether it has not come back yet."""
        return self._thread.is_alive()

    def answer(self, patience: float) -> SendResult:
        """Say what came of it; if it has not come back after so many seconds, that there was no answer."""
        self._thread.join(patience)
        return self._answer

    def _make(self, send: Send, title: str, body: str) -> None:
        CAPTURED.lines = []
        try:
            self._answer = SendResult(is_taken=True) if send(title, body) else self._refused(NOT_TAKEN)
        except Exception as failure:  # noqa: BLE001  a hundred services are behind this; none of them may end the clock
            self._answer = self._refused(type(failure).__name__)  # its text may quote the URL

    @staticmethod
    def _refused(reason: str) -> SendResult:
        return SendResult(is_taken=False, reason=reason, details=" ".join(CAPTURED.lines) or None)


class Destination:
    """One place that alerts are sent to. Neither its name nor its service gives away the URL."""

    def __init__(self, url: str, service: str, send: Send) -> None:
        self.name = sha256(url.encode()).hexdigest()[:8]
        self.service = service
        self._send = send
        self._calls: list[TimedCall] = []

    def call(self, title: str, body: str) -> TimedCall | None:
        """Begin to send; None if too many calls hang already."""
        self._calls = [call for call in self._calls if call.is_running]
        if len(self._calls) >= MAX_HUNG_CALLS:
            return None
        call = TimedCall(self._send, title, body)
        self._calls.append(call)
        return call


def open_destinations(settings: Settings) -> tuple[Destination, ...]:
    """Read ALERT_URLS; nothing is connected to. Raise SettingsError if Apprise is not there, or does not know a URL."""
    if settings.alert_urls is None:
        return ()
    if importlib.util.find_spec("apprise") is None:
        raise SettingsError("ALERT_URLS is set, which needs: pip install 'plugsurfing-webhooks[alerts]'.")
    _capture_logs()
    found: dict[str, Destination] = {}
    for number, url in enumerate(settings.alert_urls.get_secret_value().split(), start=1):
        service, send = _service(url, number)
        address = Destination(url, service, send)
        found[address.name] = address
    if not found:
        raise SettingsError("ALERT_URLS is set, but empty.")
    return tuple(found.values())


def _service(url: str, number: int) -> tuple[str, Send]:
    apprise = importlib.import_module("apprise")
    # In the thread that calls, without threads and limits of its own: those would hold up the end of the process. And
    # without files: what services keep in them are tokens.
    asset = apprise.AppriseAsset(
        app_id="plugsurfing-webhooks", async_mode=False, service_timeout=0, storage_mode="memory"
    )
    sender = apprise.Apprise(asset=asset)
    service = apprise.Apprise.instantiate(url, asset=asset)
    if service is None or not sender.add(service):
        raise SettingsError(f"ALERT_URLS: number {number} is not a URL that Apprise knows.")

    def send(title: str, body: str) -> bool:
        how = {"notify_type": apprise.NotifyType.WARNING, "body_format": apprise.NotifyFormat.TEXT}
        return bool(sender.notify(title=title, body=body, **how))

    return str(service.schema), send


class _CapturedLog(threading.local):
    """What Apprise has logged in this thread."""

    lines: list[str]

    def __init__(self) -> None:
        self.lines = []


CAPTURED = _CapturedLog()


class _Listener(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        CAPTURED.lines.append(record.getMessage())


def _capture_logs() -> None:
    """Keep what Apprise has to say for the caller, and out of the log."""
    logger = logging.getLogger("apprise")
    logger.propagate = False
    logger.handlers = [_Listener(logging.WARNING)]
    for name in NOISY_LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)
