"""Everything that can go wrong between the socket and the queue.

WebhooksError
├── Refusal              a request we do not keep, each kind with its HTTP status
│   ├── NotAuthentic     403
│   ├── Slow             408
│   ├── TooLarge         413
│   └── Encoded          415
├── Unreadable           a body we keep but cannot understand
├── InboxUnavailable     a delivery cannot be kept right now (503)
├── QueueUnavailable     Redis cannot be reached
├── SettingsError        a setting is missing or wrong
├── PluginError          a plugin cannot be loaded (workers.plugins)
├── NotOurJob            a job in Redis asks for what is none of ours (workers.execution.job_allowlist)
├── PushFailed           a channel could not hand a push on (handlers.kit.channel)
│   └── Unregistered     because the device is gone (handlers.kit.channel)
└── DriveError           the Drive API did not give what it was asked for; its kinds are there (workers.drive.errors)
"""

from http import HTTPStatus
from typing import ClassVar


class WebhooksError(Exception):
    """Anything that goes wrong in this house."""


class Refusal(WebhooksError):
    """Raised when a request is not let in.

    The sender is told `sentence`, which is the same for every cause; `str()` tells the operator why.
    """

    status: ClassVar[HTTPStatus]
    sentence: ClassVar[str]

    def __init__(self, reason: str | None = None) -> None:
        super().__init__(reason or self.sentence)


class NotAuthentic(Refusal):
    """Raised when a request does not prove that it is Plugsurfing's."""

    status = HTTPStatus.FORBIDDEN
    sentence = "This request could not be verified."


class RequestTimeout(Refusal):
    """Raised when a body is not complete in time."""

    status = HTTPStatus.REQUEST_TIMEOUT
    sentence = "The body did not arrive in time."


class TooLarge(Refusal):
    """Raised when a body is over the limit."""

    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    sentence = "The body is too large."


class UnsupportedEncoding(Refusal):
    """Raised when a body has a Content-Encoding: what is signed are the bytes as they are sent."""

    status = HTTPStatus.UNSUPPORTED_MEDIA_TYPE
    sentence = "A Content-Encoding is not supported."


class Unreadable(WebhooksError):
    """Raised when a kept body cannot be understood; the sentence is for the operator and repeats nothing personal."""


class InboxUnavailable(WebhooksError):
    """Raised when the inbox cannot keep a delivery: nothing was promised."""

    status: ClassVar[HTTPStatus] = HTTPStatus.SERVICE_UNAVAILABLE
    sentence: ClassVar[str] = "The event cannot be kept right now."

    def __init__(self, reason: str | None = None) -> None:
        super().__init__(reason or self.sentence)


class QueueUnavailable(WebhooksError):
    """Raised when the queues in Redis cannot be reached."""


class SettingsError(WebhooksError):
    """Raised when a setting is missing or wrong; the sentence names the setting and never its value."""
