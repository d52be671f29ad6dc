"""Refuse drivers whose prepaid balance is too low."""

from handlers import Allowed, AuthorizationRequest, AuthorizeContext, Decision, authorize
from handlers.kit.policies import indeterminate, is_stale, key_owner


@authorize(order=30, name="balance", when=lambda settings: settings.authorize_least_balance is not None)
def must_have_credit(request: AuthorizationRequest, ctx: AuthorizeContext) -> Decision | None:
    """Return NO_CREDIT if the balance was below AUTHORIZE_LEAST_BALANCE when it was last read."""
    least = ctx.settings.authorize_least_balance
    user_id = key_owner(request, ctx)
    if least is None or user_id is None:
        return indeterminate("the owner of the key is not known", ctx)
    balance = ctx.balance(user_id)
    if balance is None or is_stale(balance.read_at, ctx.settings.authorize_balances_stale, ctx):
        return indeterminate("the balance was never read, or too long ago", ctx)
    if balance.amount < least:
        return Decision(Allowed.NO_CREDIT, reason="the balance is below AUTHORIZE_LEAST_BALANCE")
    return None
