"""The time of the test that runs: that of an import may be an hour ago when its turn comes."""

from datetime import UTC, datetime
from functools import cache


@cache
def now() -> datetime:
    """Return the same time for the whole of a test, in whole seconds: the first call decides."""
    return datetime.now(UTC).replace(microsecond=0)
