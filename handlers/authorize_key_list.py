"""Allow only charging keys that the Drive API lists, while they are enabled and valid."""

from handlers import Allowed, AuthorizationRequest, AuthorizeContext, Decision, authorize
from handlers.kit.policies import indeterminate, is_stale, listed_key


@authorize(order=10, name="key_list", when=lambda settings: settings.authorize_key_list)
def must_be_listed(request: AuthorizationRequest, ctx: AuthorizeContext) -> Decision | None:
    """Return a refusal for a key that is not listed, disabled or expired."""
    if request.key is None and request.reference_id is None:
        return indeterminate("the request has neither a key nor the number of a card", ctx)
    if is_stale(ctx.keys_synced_at(), ctx.settings.authorize_keys_stale, ctx):
        return indeterminate("the list of keys was never read, or too long ago", ctx)
    key = listed_key(request, ctx)
    if key is None:
        return Decision(Allowed.NOT_ALLOWED, reason="the key is not listed")
    if not key.enabled:
        return Decision(Allowed.BLOCKED, reason="the key is disabled")
    if key.valid_to is not None and key.valid_to <= ctx.now():
        return Decision(Allowed.EXPIRED, reason="the key has expired")
    return None
