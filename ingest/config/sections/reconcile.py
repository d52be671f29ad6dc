"""When sessions are read again at the Drive API, because events alone are not the truth."""

from datetime import timedelta

from pydantic import Field
from pydantic_settings import BaseSettings

from ingest.config.durations import PositiveDuration
from ingest.config.types import PositiveInt


class ReconcileSettings(BaseSettings):
    """How often the Drive API is asked what the events have not told."""

    reconcile_after: PositiveDuration = Field(
        timedelta(minutes=30),
        description="how long a session of which not everything is known may be silent before the Drive API is asked",
    )
    reconcile_longest: PositiveDuration = Field(
        timedelta(hours=4), description="longest wait before it is asked again; the first one doubles"
    )
    reconcile_for: PositiveDuration = Field(timedelta(days=7), description="how long it is asked about one session")
    reconcile_per_minute: PositiveInt = Field(
        300, description="most calls a minute for this, histories of users included"
    )
    history_every: PositiveDuration = Field(
        timedelta(hours=12), description="how often the histories of known users are searched for sessions unheard of"
    )
    history_span: PositiveDuration = Field(timedelta(days=3), description="how far back such a search goes")
    known_users_for: PositiveDuration = Field(
        timedelta(days=30), description="how long after their last session, or their device, users are searched for"
    )
