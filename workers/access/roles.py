"""The person behind a request to the dashboard, and which role each request requires."""

from dataclasses import dataclass

from starlette.requests import HTTPConnection

from ingest.config.sections.dashboard import DashboardRole

RANKS = {role: rank for rank, role in enumerate(DashboardRole)}
SAFE_METHODS = {"GET", "HEAD"}
RQ_DASHBOARD = "/rq/"
FOR_EVERYBODY = {"/logout", "/reveal"}
"""What anybody who is logged in may post."""


@dataclass(frozen=True, slots=True)
class Principal:
    """The person, or the program, that makes a request."""

    name: str
    role: DashboardRole
    csrf_token: str = ""
    """What each form must send back as `csrf_token`; without one nothing can be changed."""
    login_id: str = ""
    """The id of the login, if there is one that can be ended."""
    reveals: bool = False
    """Whether this page may show bodies and user ids: it was asked for, and is recorded."""

    def may(self, role: DashboardRole) -> bool:
        """Return whether the role of this person includes another one."""
        return RANKS[self.role] >= RANKS[role]


def principal_of(request: HTTPConnection) -> Principal:
    """Return who makes a request that the access control has let through."""
    principal: Principal = request.scope["user"]
    return principal


def raw_path(request: HTTPConnection) -> str:
    """Return the path as it was sent: an encoded slash in a name is not a separator."""
    path: bytes = request.scope["raw_path"]
    return path.partition(b"?")[0].decode("latin-1")


def address_of(request: HTTPConnection) -> str:
    """Return the path and the query of a page, as they were sent."""
    query: bytes = request.scope["query_string"]
    return raw_path(request) + (f"?{query.decode('latin-1')}" if query else "")


def required_role(method: str, path: str) -> DashboardRole:
    """Return the role that a request requires, whatever handles it."""
    if method in SAFE_METHODS or path in FOR_EVERYBODY:
        return DashboardRole.LOOK
    return DashboardRole.ADMIN if path.startswith(RQ_DASHBOARD) else DashboardRole.ACT
