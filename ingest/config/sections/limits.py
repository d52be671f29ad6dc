"""How much the door takes, and how long it keeps what it knows."""

from datetime import timedelta

from pydantic import Field
from pydantic_settings import BaseSettings

from ingest.config.durations import PositiveDuration
from ingest.config.types import PositiveInt


class LimitSettings(BaseSettings):
    """What the door bears."""

    max_body_bytes: PositiveInt = Field(1_048_576, description="longest body that is taken")
    body_timeout: PositiveDuration = Field(timedelta(seconds=5), description="how long a body may take to arrive")
    waiting_bytes: PositiveInt = Field(
        33_554_432, description="most that may wait for the disk; what comes beyond is answered 503"
    )
    disk_reserve: int = Field(
        16_777_216,
        ge=0,
        description="bytes of the inbox's disk that are left to the relay; where no more are free the answer is 503",
    )
    clock_skew: PositiveDuration = Field(timedelta(minutes=5), description="clocks that differ by more are reported")
    duplicates_remembered: PositiveDuration = Field(timedelta(days=8), description="how long the door knows a repeat")
    quarantine_count: PositiveInt = Field(1000, description="most requests in quarantine; the oldest go")
    quarantine_bytes: PositiveInt = Field(16_777_216, description="most bytes in quarantine; the oldest go")
    quarantine_age: PositiveDuration = Field(timedelta(days=30), description="longest stay in quarantine")
