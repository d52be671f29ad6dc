"""Settings of the HTTP servers: who may send, where they listen, and their limits."""

from datetime import timedelta

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings

from ingest.config.durations import PositiveDuration
from ingest.config.types import Networks, Port, PositiveInt
from ingest.wire.client_address import AllowedSources
from ingest.wire.signature import KeyEncoding


class ServerSettings(BaseSettings):
    """`serve`: signing keys, addresses, limits and quarantine."""

    plugsurfing_hmac_current: SecretStr | None = Field(None, description="signing key in use")
    plugsurfing_hmac_next: SecretStr | None = Field(None, description="signing key that a rotation moves to")
    plugsurfing_hmac_encoding: KeyEncoding = Field(
        KeyEncoding.UTF8, description="encoding of both keys: `utf8`, `base64` or `hex`"
    )
    plugsurfing_hmac_required: bool = Field(
        default=True, description="`false` accepts unsigned requests and requires `PLUGSURFING_AUTHORIZATION`"
    )
    plugsurfing_authorization: SecretStr | None = Field(
        None, description="value expected in `Authorization`, beside the signature; several on a line each"
    )
    plugsurfing_sources: Networks = Field(
        (), description="addresses and networks that events and CDRs may come from, by comma; unset: any"
    )
    forwarded_by: Networks = Field(
        (), description="addresses and networks of your proxies, by comma: their `X-Forwarded-For` names the sender"
    )
    host: str = Field("127.0.0.1", description="address that every server listens on")
    port: Port = Field(8000, description="port of `serve`")
    serve_workers: int = Field(
        0, ge=0, description="worker processes of `serve`, replaced one by one on SIGHUP; 0: none, and SIGHUP ends it"
    )
    gap_shortest: PositiveDuration = Field(
        timedelta(seconds=5), description="shortest time without a heartbeat of `serve` that is recorded as a downtime"
    )
    max_body_bytes: PositiveInt = Field(1_048_576, description="longest body that is accepted")
    body_timeout: PositiveDuration = Field(timedelta(seconds=5), description="how long a body may take to arrive")
    waiting_bytes: PositiveInt = Field(
        33_554_432, description="most bytes that may wait for the disk; requests beyond it get 503"
    )
    disk_reserve: int = Field(
        16_777_216,
        ge=0,
        description="bytes of its disk that the inbox leaves to the relay; with fewer free, requests get 503",
    )
    clock_skew: PositiveDuration = Field(timedelta(minutes=5), description="difference between clocks that is reported")
    duplicates_remembered: PositiveDuration = Field(
        timedelta(days=8), description="how long the inbox recognizes a duplicate"
    )
    quarantine_count: PositiveInt = Field(1000, description="most requests in quarantine; the oldest are dropped")
    quarantine_bytes: PositiveInt = Field(16_777_216, description="most bytes in quarantine; the oldest are dropped")
    quarantine_age: PositiveDuration = Field(timedelta(days=30), description="how long a request stays in quarantine")

    @property
    def sources(self) -> AllowedSources | None:
        """Return where events and CDRs may come from; None if they may come from anywhere."""
        return AllowedSources(self.plugsurfing_sources) if self.plugsurfing_sources else None


class DashboardSettings(BaseSettings):
    """`dashboard`: port and login."""

    dashboard_port: Port = Field(8002, description="port of `dashboard`")
    dashboard_username: str | None = Field(None, description="user name of the dashboard, beside a password")
    dashboard_password: SecretStr | None = Field(None, description="password of the dashboard")
