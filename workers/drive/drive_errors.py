"""Errors of calls to the Drive API; no message repeats an id, a key or a body."""

from ingest.errors import WebhooksError


class DriveError(WebhooksError):
    """Any failure of a call to the Drive API."""


class DriveUnavailable(DriveError):
    """Raised when the Drive API cannot be reached, fails (5xx) or throttles: retryable, except for our own limit."""


class Throttled(DriveUnavailable):
    """Raised when the Drive API refuses a call because there were too many (429)."""


class RateBudgetExhausted(DriveUnavailable):
    """Raised when our own rate limit has no room before the caller's deadline; nothing was sent."""


class Unauthorized(DriveError):
    """Raised when the key is not accepted (401) or lacks the permission (403); the message names the setting."""


RATE_LIMITED = (Throttled, RateBudgetExhausted)
"""No call at all is possible now."""
OUTAGES = (DriveUnavailable, Unauthorized)
"""Other calls may fail in the same way."""


class NotFound(DriveError):
    """Raised when the Drive API does not know the object (404), or cannot: its id is empty, too long or not Unicode."""


class DriveConflict(DriveError):
    """Raised when the object exists already (409)."""


class BadRequest(DriveError):
    """Raised when the Drive API does not accept the request (400, 422 and the like)."""


class InvalidResponse(DriveError):
    """Raised when a response cannot be understood."""


class TruncatedResponse(InvalidResponse):
    """Raised when a response is incomplete, as cut-off JSON or a page without its entries, or a proxy's: retryable."""
