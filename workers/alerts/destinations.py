"""The destinations of ALERT_URLS: any service that Apprise supports, called with a deadline."""

import importlib
import importlib.util
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256

from ingest.config.settings import Settings
from ingest.errors import SettingsError
from workers.resilience.guarded_call import CallTimedOut, TimedCall

MAX_HUNG_CALLS = 3
"""Calls that have not returned, beyond which a destination is not called again before one of them does."""

HANGING = "earlier calls have not come back yet"
NOT_ACCEPTED = "it was not accepted"

#: Apprise's HTTP libraries log URLs, which contain the tokens.
NOISY_LOGGERS = ("urllib3", "requests", "requests_oauthlib", "oauthlib")

Send = Callable[[str, str], bool]
"""Sends a title and a body, and returns whether the service accepted it."""


@dataclass(frozen=True, slots=True)
class SendResult:
    """The result of a call."""

    is_accepted: bool
    reason: str | None = None
    #: Apprise's own explanation. It may quote a URL, so it is for a person's terminal and not for the log.
    details: str | None = None

    def __str__(self) -> str:
        """Format it for a person."""
        if self.is_accepted:
            return "accepted"
        return f"{self.reason}. {self.details}" if self.details else f"{self.reason}."


@dataclass(frozen=True, slots=True)
class PendingSend:
    """A call that has been started, or that was not because too many hang."""

    call: TimedCall[SendResult] | None

    def result(self, deadline: float) -> SendResult:
        """Return the result, whatever it is when `time.monotonic()` is `deadline`."""
        if self.call is None:
            return SendResult(is_accepted=False, reason=HANGING)
        result, raised = self.call.result(deadline)
        if result is not None:
            return result
        reason = str(raised) if isinstance(raised, CallTimedOut) else type(raised).__name__
        return SendResult(is_accepted=False, reason=reason)


class Destination:
    """One URL that alerts are sent to. Neither its name nor its service reveals the URL."""

    def __init__(self, url: str, service: str, send: Send) -> None:
        self.name = sha256(url.encode()).hexdigest()[:8]
        self.service = service
        self._send = send
        self._calls: list[TimedCall[SendResult]] = []

    def start(self, title: str, body: str) -> PendingSend:
        """Start to send, unless too many calls hang already."""
        self._calls = [call for call in self._calls if call.is_running]
        if len(self._calls) >= MAX_HUNG_CALLS:
            return PendingSend(None)
        self._calls.append(TimedCall(_send, self._send, title, body))
        return PendingSend(self._calls[-1])


def open_destinations(settings: Settings) -> tuple[Destination, ...]:
    """Read ALERT_URLS without connecting. Raise SettingsError if Apprise is not installed or does not know a URL."""
    if settings.alert_urls is None:
        return ()
    if importlib.util.find_spec("apprise") is None:
        raise SettingsError("ALERT_URLS is set, which needs: pip install 'plugsurfing-webhooks[alerts]'.")
    _capture_logs()
    found: dict[str, Destination] = {}
    for number, url in enumerate(settings.alert_urls.get_secret_value().split(), start=1):
        destination = Destination(url, *_service(url, number))
        found[destination.name] = destination
    if not found:
        raise SettingsError("ALERT_URLS is set, but empty.")
    return tuple(found.values())


def _service(url: str, number: int) -> tuple[str, Send]:
    apprise = importlib.import_module("apprise")
    # In the calling thread, without threads and timeouts of its own, which would delay the end of the process; and
    # without files, in which services store tokens.
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


def _send(send: Send, title: str, body: str) -> SendResult:
    CAPTURED.lines = []
    try:
        if send(title, body):
            return SendResult(is_accepted=True)
        reason = NOT_ACCEPTED
    except Exception as error:  # noqa: BLE001  a hundred services are behind this; none of them may end the clock
        reason = type(error).__name__  # its text may quote the URL
    return SendResult(is_accepted=False, reason=reason, details=" ".join(CAPTURED.lines) or None)


class _CapturedLog(threading.local):
    """What Apprise has logged in this thread."""

    def __init__(self) -> None:
        self.lines: list[str] = []


CAPTURED = _CapturedLog()


class _CaptureHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        CAPTURED.lines.append(record.getMessage())


def _capture_logs() -> None:
    """Collect Apprise's log lines for the result of the call, and keep them out of our log."""
    logger = logging.getLogger("apprise")
    logger.propagate = False
    logger.handlers = [_CaptureHandler(logging.WARNING)]
    for name in NOISY_LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)
