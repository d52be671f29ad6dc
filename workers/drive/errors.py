"""What can go wrong when the Drive API is asked; no sentence repeats an id, a key or a body.

DriveError               (ingest.errors.WebhooksError)
├── DriveUnavailable     no answer, or one that says: later. Worth another try
│   ├── Throttled        429
│   └── BudgetSpent      our own budget has no room left before the caller's deadline
├── DriveRefused         401, 403: the key
├── NotInDrive           404, or an id that cannot be asked for
├── DriveConflict        409
├── DriveRejected        any other 4xx: what was asked is not accepted
└── DriveNonsense        an answer that is not understood
    └── Garbled          because it did not arrive whole. Worth another try, too
"""

from ingest.errors import WebhooksError


class DriveError(WebhooksError):
    """Anything that goes wrong between us and the Drive API."""


class DriveUnavailable(DriveError):
    """Raised when the Drive API cannot be reached, fails (5xx), or asks for patience; later it may be there again."""


class Throttled(DriveUnavailable):
    """Raised when the Drive API says that it is asked too often (429)."""


class RateBudgetExhausted(DriveUnavailable):
    """Raised when our own budget of calls has no room before the caller's time is up; nothing was sent."""


class Unauthorized(DriveError):
    """Raised when the key is not accepted (401), or lacks the permission (403); the sentence names the setting."""


class NotFound(DriveError):
    """Raised when the Drive API does not know it (404), or could not: an empty id, or one that is no text."""


class DriveConflict(DriveError):
    """Raised when it is there already (409)."""


class BadRequest(DriveError):
    """Raised when the Drive API takes what it was asked for wrong (400, 422 and their like)."""


class InvalidResponse(DriveError):
    """Raised when an answer cannot be understood."""


class TruncatedResponse(InvalidResponse):
    """Raised when an answer did not arrive whole: JSON that is cut off, a proxy's page, a page of a list gone empty."""
