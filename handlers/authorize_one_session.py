"""Refuse a key while it, or its owner, charges elsewhere."""

from handlers import Allowed, AuthorizationRequest, AuthorizeContext, Decision, authorize
from handlers.kit.policies import indeterminate, key_owner


@authorize(order=20, name="one_session", when=lambda settings: settings.authorize_one_session)
def must_not_charge_elsewhere(request: AuthorizationRequest, ctx: AuthorizeContext) -> Decision | None:
    """Return NOT_ALLOWED if another session than the one that is requested surely charges.

    One that waits to start, or whose stop failed, does not count: both may last long, and Plugsurfing's guide says that
    a driver must not be kept from starting again then.

    No event names the key of a session. It is known from authorization requests that named the session, whatever the
    decision was, and from the Drive API for sessions that were read there; a driver's sessions are known by their user.
    A session counts once an event reports its start, so two requests within seconds may both be allowed.
    """
    if ctx.sessions_read_at() is None:
        return indeterminate("the open sessions have not been read yet", ctx)
    user_id = key_owner(request, ctx)
    if request.key is None and user_id is None:
        return indeterminate("neither the key nor its owner is known", ctx)
    others = set(ctx.open_sessions(request.key, user_id)) - {request.session_id}
    if others:
        return Decision(Allowed.NOT_ALLOWED, reason=f"another session charges: {', '.join(sorted(others)[:3])}")
    return None
