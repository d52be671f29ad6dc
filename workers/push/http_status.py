"""What a provider's HTTP response means for a push."""

import re
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from http import HTTPStatus

from handlers.kit.channel import PushFailed

LONGEST_AFTER = timedelta(hours=1)
"""The longest Retry-After that is obeyed: a longer one may be a mistake."""

FINAL = frozenset(
    {
        HTTPStatus.BAD_REQUEST,
        HTTPStatus.CONFLICT,
        HTTPStatus.GONE,
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
        HTTPStatus.UNPROCESSABLE_ENTITY,
    }
)
"""The statuses that are about the push itself: it would be refused again. Any other may be mended before its end."""


def failure_for_status(who: str, status: int, retry_after: str | None) -> PushFailed | None:
    """Return the failure that a status means: None for 2xx, final for FINAL, retryable for any other.

    An expired key (401, 403) or a service that is being deployed (404) is about all pushes, and none is lost by it.
    """
    if 200 <= status < 300:  # noqa: PLR2004 - the range that means success
        return None
    return PushFailed(
        f"{who} answered {status}",
        retryable=status not in FINAL,
        after=parse_retry_after(retry_after, datetime.now(UTC)),
        throttled=status == HTTPStatus.TOO_MANY_REQUESTS,
    )


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
