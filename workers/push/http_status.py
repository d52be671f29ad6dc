"""What the HTTP answer of a provider means for a push."""

import re
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from http import HTTPStatus

from handlers.kit.channel import PushFailed

LONGEST_AFTER = timedelta(hours=1)
"""A provider that asks for more patience is asked again sooner: it may have been a mistake."""

RETRYABLE = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS})
"""The answers below 500 that say nothing about the push itself."""


def failure_for_status(who: str, status: int, retry_after: str | None) -> PushFailed | None:
    """Put an answer into words: None if the push was taken; tried again after 5xx and 429, dead after any other."""
    if 200 <= status < 300:  # noqa: PLR2004 - the range that means success
        return None
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR or status in RETRYABLE:
        return PushFailed(f"{who} answered {status}", after=parse_retry_after(retry_after, datetime.now(UTC)))
    return PushFailed(f"{who} answered {status}", retryable=False)


def parse_retry_after(retry_after: str | None, now: datetime) -> timedelta | None:
    """Read a Retry-After header, seconds or a date (RFC 9110, 10.2.3); None if it says nothing that makes sense."""
    text = (retry_after or "").strip()
    if re.fullmatch(r"[0-9]{1,9}", text):
        span = timedelta(seconds=int(text))
    else:
        try:
            at = parsedate_to_datetime(text)
        except (ValueError, TypeError, IndexError, OverflowError):
            return None
        span = (at if at.tzinfo else at.replace(tzinfo=UTC)) - now
    return min(max(span, timedelta()), LONGEST_AFTER)
