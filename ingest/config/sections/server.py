"""Settings of the HTTP servers: who may send, where they listen, and their limits."""

from datetime import timedelta
from typing import Annotated

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings

from ingest.config.durations import Duration, PositiveDuration, at_least
from ingest.config.types import Networks, Port, PositiveInt, setting
from ingest.wire.signature import KeyEncoding


class ServerSettings(BaseSettings):
    """`serve`: signing keys, addresses, limits and quarantine."""

    plugsurfing_hmac_current: SecretStr | None = setting(None, "signing key in use")
    plugsurfing_hmac_next: SecretStr | None = setting(None, "signing key that a rotation moves to")
    plugsurfing_hmac_encoding: KeyEncoding = setting(KeyEncoding.UTF8, "their encoding: `utf8`, `base64` or `hex`")
    plugsurfing_hmac_required: bool = setting(
        default=True, description="`false` accepts unsigned requests and requires `PLUGSURFING_AUTHORIZATION`"
    )
    plugsurfing_authorization: SecretStr | None = setting(
        None, "value expected in `Authorization`, beside the signature; several on a line each"
    )
    plugsurfing_sources: Networks = setting((), "addresses and networks that may send, by comma; unset: any")
    forwarded_by: Networks = setting(
        (), "addresses and networks of your proxies, by comma: their `X-Forwarded-For` names the sender"
    )
    host: str = setting("127.0.0.1", "address that every server listens on")
    port: Port = setting(8000, "port of `serve`")
    serve_workers: int = Field(
        0, ge=0, description="worker processes of `serve`, replaced one by one on SIGHUP; 0: none, and SIGHUP ends it"
    )
    # A heartbeat comes every second: with less, each would find a downtime.
    gap_shortest: Annotated[Duration, at_least(timedelta(seconds=2))] = setting(
        timedelta(seconds=5), "shortest time without a heartbeat of `serve` that is recorded as a downtime, from 2 s"
    )
    max_body_bytes: PositiveInt = setting(1_048_576, "longest body that is accepted")
    body_timeout: PositiveDuration = setting(timedelta(seconds=5), "how long a body may take to arrive")
    arriving_bytes: PositiveInt = setting(
        33_554_432, "most bytes of unfinished bodies that a server holds; beyond it the largest and oldest get 503"
    )
    max_connections: PositiveInt = setting(
        4096, "most connections of a server, fewer if its limit of open files is lower; beyond it idle ones are closed"
    )
    keep_alive: PositiveDuration = setting(
        timedelta(seconds=620), "how long a server keeps an idle connection: longer than the proxy before it does"
    )
    waiting_bytes: PositiveInt = setting(
        33_554_432, "most bytes that may wait for the disk; requests beyond it get 503"
    )
    disk_reserve: int = Field(
        16_777_216,
        ge=0,
        description="bytes of its disk that the inbox leaves to the relay; with fewer free, requests get 503",
    )
    clock_skew: PositiveDuration = setting(timedelta(minutes=5), "difference between clocks that is reported")
    duplicates_remembered: PositiveDuration = setting(timedelta(days=8), "how long the inbox recognizes a duplicate")
    quarantine_count: PositiveInt = setting(1000, "most requests in quarantine; the oldest are dropped")
    quarantine_bytes: PositiveInt = setting(16_777_216, "most bytes in quarantine; the oldest are dropped")
    quarantine_age: PositiveDuration = setting(timedelta(days=30), "how long a request stays in quarantine")


class MetricsSettings(BaseSettings):
    """`clock`: metrics of workers, the clock, the queues and the ledger."""

    metrics_port: Port = setting(8003, "port of `/metrics` of the clock, on the address HOST")
