"""Where the dashboard is, and who may see it."""

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings

from ingest.config.types import Port


class DashboardSettings(BaseSettings):
    """Where the dashboard is, and who may see it."""

    dashboard_port: Port = Field(8002, description="port of `dashboard`")
    dashboard_username: str | None = Field(None, description="who may see the dashboard, with a password")
    dashboard_password: SecretStr | None = Field(None, description="password of the dashboard")
