"""The errors of this project, drawn as the tree that they form.

WebhooksError
├── Refusal                  a request that is not kept, each kind with its HTTP status
│   ├── NotAuthentic         403
│   ├── WrongPath            404
│   ├── RequestTimeout       408
│   ├── TooLarge             413
│   ├── UnsupportedEncoding  415
│   └── InboxUnavailable     503
├── Unreadable               a kept body that cannot be parsed
├── QueueUnavailable         Redis cannot be reached
├── LedgerUnknown            the relay does not know which ledger it publishes to
├── LedgerTooNew             a newer version has migrated the ledger (workers.installation)
├── SettingsError            a setting is missing or wrong
│   └── PluginError          a plugin cannot be loaded (workers.plugins)
├── PluginMigrationFailed    the tables of a plugin cannot be migrated (workers.ledger.database.migrate_plugins)
├── JobNotAllowed            a job in Redis names a function that is not ours (workers.execution.job_allowlist)
├── PushFailed               a channel could not send a push (handlers.kit.channel)
│   └── Unregistered         because the device is gone (handlers.kit.channel)
└── DriveError               the Drive API did not return what was requested (workers.drive.drive_errors)
"""

from http import HTTPStatus
from typing import ClassVar


class WebhooksError(Exception):
    """Base of all errors of this project."""


class Refusal(WebhooksError):
    """Raised when a request is refused.

    The response holds `sentence`, the same for every cause; `str()` gives the operator the reason.
    """

    status: ClassVar[HTTPStatus]
    sentence: ClassVar[str]

    def __init__(self, reason: str | None = None) -> None:
        super().__init__(reason or self.sentence)


class NotAuthentic(Refusal):
    """Raised when a request does not prove that it is Plugsurfing's."""

    status = HTTPStatus.FORBIDDEN
    sentence = "This request could not be verified."


class WrongPath(Refusal):
    """Raised when a request proves that it is Plugsurfing's, but came to a path where nothing is."""

    status = HTTPStatus.NOT_FOUND
    sentence = "There is nothing here."


class RequestTimeout(Refusal):
    """Raised when a body is not complete in time."""

    status = HTTPStatus.REQUEST_TIMEOUT
    sentence = "The body did not arrive in time."


class TooLarge(Refusal):
    """Raised when a body is over the limit."""

    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    sentence = "The body is too large."


class UnsupportedEncoding(Refusal):
    """Raised when a body has a Content-Encoding: the signature covers the bytes as they are sent."""

    status = HTTPStatus.UNSUPPORTED_MEDIA_TYPE
    sentence = "A Content-Encoding is not supported."


class InboxUnavailable(Refusal):
    """Raised when the inbox cannot keep a delivery, which is then not acknowledged."""

    status = HTTPStatus.SERVICE_UNAVAILABLE
    sentence = "The event cannot be kept right now."


class Unreadable(WebhooksError):
    """Raised when a kept body cannot be parsed. The text is for the operator and holds no personal data."""


class QueueUnavailable(WebhooksError):
    """Raised when the queues in Redis cannot be reached."""


class LedgerUnknown(WebhooksError):
    """Raised when it is not certain which ledger an inbox belongs to. The text tells the operator what to do."""


class SettingsError(WebhooksError):
    """Raised when a setting is missing or wrong. The text names the setting and never its value."""
