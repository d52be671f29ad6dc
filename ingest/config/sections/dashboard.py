"""Settings of the dashboard: its port, its users and their roles."""

from datetime import timedelta
from enum import StrEnum

from pydantic import SecretStr
from pydantic_settings import BaseSettings

from ingest.config.durations import PositiveDuration
from ingest.config.types import HeaderName, Port, setting


class DashboardRole(StrEnum):
    """What a user may do in the dashboard. Each role includes those before it."""

    LOOK = "look"
    """See every page; show a body or user ids, which is recorded."""
    ACT = "act"
    """Run handlers and send pushes again, resolve alerts, let in what is in quarantine."""
    ADMIN = "admin"
    """Change the queues in rq-dashboard."""


class DashboardSettings(BaseSettings):
    """`dashboard`: port, logins and roles."""

    dashboard_port: Port = setting(8002, "port of `dashboard`")
    dashboard_username: str | None = setting(None, "user name of the dashboard, beside a password; unset: `webhooks`")
    dashboard_password: SecretStr | None = setting(None, "password of the dashboard, with the role `admin`")
    dashboard_users: SecretStr | None = setting(
        None, "further users of the dashboard, one a line: name, role (`look`, `act`, `admin`) and secret, by blanks"
    )
    dashboard_session_key: SecretStr | None = setting(
        None, "key that signs logins to the dashboard; unset: made up at each start, so that they end with the process"
    )
    dashboard_login_for: PositiveDuration = setting(timedelta(hours=12), "how long a login to the dashboard lasts")
    dashboard_user_header: HeaderName | None = setting(
        None, "header in which a proxy in `FORWARDED_BY` names the user of the dashboard, whom it has authenticated"
    )
    dashboard_role_header: HeaderName | None = setting(None, "header in which it names the user's role")
    dashboard_default_role: DashboardRole = setting(DashboardRole.LOOK, "role of a user for whom it names none")
