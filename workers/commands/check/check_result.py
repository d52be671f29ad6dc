"""What a check has found about one subject."""

from dataclasses import dataclass
from enum import StrEnum
from functools import partial


class CheckStatus(StrEnum):
    """The result of a check."""

    OK = "ok"
    """It works."""
    WARN = "warn"
    """It works, and needs attention."""
    FAIL = "fail"
    """A process would not start, or not do its work."""


@dataclass(frozen=True)
class CheckResult:
    """What a check has found about one subject."""

    status: CheckStatus
    subject: str
    sentence: str


ok = partial(CheckResult, CheckStatus.OK)
warn = partial(CheckResult, CheckStatus.WARN)
fail = partial(CheckResult, CheckStatus.FAIL)
