"""What a provider's HTTP response means for a push."""

import re
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from http import HTTPStatus

from handlers.kit.channel import PushFailed

LONGEST_AFTER = timedelta(hours=1)
"""The longest Retry-After that is obeyed: a longer one may be a mistake."""

RETRYABLE = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS})
"""The statuses below 500 that are not about the push itself."""


def failure_for_status(who: str, status: int, retry_after: str | None) -> PushFailed | None:
    """Return the failure that a status means: None for 2xx; retryable for 5xx and RETRYABLE, final for any other."""
    if 200 <= status < 300:  # noqa: PLR2004 - the range that means success
        return None
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR or status in RETRYABLE:
        return PushFailed(f"{who} answered {status}", after=parse_retry_after(retry_after, datetime.now(UTC)))
    return PushFailed(f"{who} answered {status}", retryable=False)


def parse_retry_after(retry_after: str | None, now: datetime) -> timedelta | None:
    """Parse a Retry-After header, seconds or a date (RFC 9110, 10.2.3); None if it is neither."""
    text = (retry_after or "").strip()
    if re.fullmatch(r"[0-9]{1,9}", text):
        delay = timedelta(seconds=int(text))
    else:
        try:
            at = parsedate_to_datetime(text)
        except (ValueError, TypeError, IndexError, OverflowError):
            return None
        delay = (at if at.tzinfo else at.replace(tzinfo=UTC)) - now
    return min(max(delay, timedelta()), LONGEST_AFTER)
