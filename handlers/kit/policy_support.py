"""What several policies want to know: whose key it is, and what to do when too little is known to decide."""

from datetime import datetime, timedelta

from handlers.kit.policies import AuthorizeContext
from ingest.config.sections.authorization import OnIndeterminate
from ingest.events import LONGEST_USER_ID, sanitize_text
from ingest.wire.authorization.request import AuthorizationRequest, Decision
from ingest.wire.json_pointers import Pointer


class Indeterminate(Exception):
    """Raised by a policy that cannot know, where AUTHORIZE_WITHOUT_FACTS says that this is a failure."""


def key_owner(question: AuthorizationRequest, ctx: AuthorizeContext) -> str | None:
    """Find the user whose key it is, in the place that AUTHORIZE_HOLDER names; None if nothing is there.

    That the id of a key's contract is also that of a user is an assumption: both are the customer's own choice.
    """
    place = ctx.settings.authorize_holder
    found: object
    if place.startswith("/"):
        found = Pointer(place).find(question.document)
    elif question.key is None:
        found = None
    elif place == "contract":
        key = ctx.charging_key(question.key)
        found = key and key.contract_id
    else:
        key = ctx.charging_key(question.key)
        found = key.identifier if key else question.key
    if isinstance(found, bool) or not isinstance(found, str | int):
        return None
    user_id = sanitize_text(str(found))
    return user_id if user_id and len(user_id) <= LONGEST_USER_ID else None


def is_stale(read_at: datetime | None, good_for: timedelta, ctx: AuthorizeContext) -> bool:
    """Say whether something was read too long ago to count, or never."""
    return read_at is None or ctx.now() - read_at > good_for


def indeterminate(reason: str, ctx: AuthorizeContext) -> Decision | None:
    """Leave it to the next policy, or raise TooLittleKnown, as AUTHORIZE_WITHOUT_FACTS says."""
    if ctx.settings.authorize_without_facts == OnIndeterminate.FAIL:
        raise Indeterminate(reason)
    ctx.log.info("policy.passed", reason=reason)
    return None
