"""What a browser is told about every page: nothing from elsewhere, no script in a page, no frame around it."""

from starlette.datastructures import MutableHeaders

from workers.access.roles import RQ_DASHBOARD

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "font-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-frame-options": "DENY",
    "x-content-type-options": "nosniff",
    # An address may have a driver in it. With `no-referrer` forms would be sent without their origin.
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


def add_security_headers(headers: MutableHeaders, path: str) -> None:
    """Add the headers to a response. Pages of rq-dashboard bring a policy of their own, and static files a cache."""
    for name, value in HEADERS.items():
        is_own = name == "cache-control" or (name == "content-security-policy" and path.startswith(RQ_DASHBOARD))
        if is_own:
            headers.setdefault(name, value)
        else:
            headers[name] = value
    for name in ("access-control-allow-origin", "access-control-allow-credentials"):
        if name in headers:
            del headers[name]
