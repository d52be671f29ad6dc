"""Release no charger for a key, or its driver, with a session that is open already."""

from handlers import Allowed, AuthorizationRequest, AuthorizeContext, Decision, authorize
from handlers.kit.policy_support import indeterminate, key_owner


@authorize(order=20, name="one_session", when=lambda settings: settings.authorize_one_session)
def must_not_charge_elsewhere(question: AuthorizationRequest, ctx: AuthorizeContext) -> Decision | None:
    """Refuse if another session than the one in question runs.

    No event names the key of a session. It is known from what we were asked, whatever the answer was, if the question
    named the session, and from the Drive API for sessions that were read there; and a driver's sessions by their user.
    A session of which nobody has said yet that it runs holds up nothing, so two questions within seconds may both be
    allowed.
    """
    if ctx.sessions_read_at() is None:
        return indeterminate("the ledger has not been looked through for open sessions yet", ctx)
    user_id = key_owner(question, ctx)
    if question.key is None and user_id is None:
        return indeterminate("neither the key nor its driver is known", ctx)
    others = set(ctx.open_sessions(question.key, user_id)) - {question.session_id}
    if others:
        return Decision(Allowed.NOT_ALLOWED, reason=f"another session is open: {', '.join(sorted(others)[:3])}")
    return None
