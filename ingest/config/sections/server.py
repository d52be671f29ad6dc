"""How requests prove that they are Plugsurfing's, and where servers listen."""

from datetime import timedelta

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings

from ingest.config.durations import PositiveDuration
from ingest.config.types import Networks, Port
from ingest.wire.client_address import AllowedSources
from ingest.wire.signature import KeyEncoding


class ServerSettings(BaseSettings):
    """Who may come in, and where."""

    plugsurfing_hmac_current: SecretStr | None = Field(None, description="signing key in use")
    plugsurfing_hmac_next: SecretStr | None = Field(None, description="signing key that a rotation moves to")
    plugsurfing_hmac_encoding: KeyEncoding = Field(
        KeyEncoding.UTF8, description="how the keys are written: `utf8`, `base64` or `hex`"
    )
    plugsurfing_hmac_required: bool = Field(
        default=True, description="`false` lets unsigned requests in and needs `PLUGSURFING_AUTHORIZATION`"
    )
    plugsurfing_authorization: SecretStr | None = Field(
        None, description="value expected in `Authorization`, beside the signature; several on a line each"
    )
    plugsurfing_sources: Networks = Field(
        (), description="addresses and networks that events and CDRs may come from, by comma; none: any"
    )
    forwarded_by: Networks = Field(
        (), description="addresses and networks of your proxies, by comma: their `X-Forwarded-For` says who sends"
    )
    host: str = Field("127.0.0.1", description="address that every server listens on")
    port: Port = Field(8000, description="port of `serve`")
    serve_workers: int = Field(
        0,
        ge=0,
        description="processes that `serve` keeps, replaced one by one on SIGHUP; 0: it serves itself, SIGHUP ends it",
    )
    gap_shortest: PositiveDuration = Field(
        timedelta(seconds=5), description="shortest time without a sign of life that is remembered as a gap"
    )

    @property
    def sources(self) -> AllowedSources | None:
        """Say where events and CDRs may come from; None if from anywhere."""
        return AllowedSources(self.plugsurfing_sources, self.forwarded_by) if self.plugsurfing_sources else None
