"""Warn a driver before an additional fee starts."""

from collections.abc import Mapping

from handlers import Context, Moot, on
from ingest.events import SessionFeeIncurring

TITLE = "Avoid {fee}"
BODY = "Stop your session before {time:%H:%M} UTC, or {fee} may apply."
FEES: Mapping[str, str] = {"BLOCKING": "a blocking fee"}
ANY_FEE = "an additional fee"


@on(SessionFeeIncurring, queue="urgent")
def warn_the_driver(event: SessionFeeIncurring, ctx: Context) -> None:
    """Push one warning per session, fee type and start; a later notice of the same fee replaces it on the phone."""
    session = ctx.session(event.session_id, until=event.fee_will_apply_from)
    if session.is_over:
        raise Moot("the session is already over")
    if ctx.now() >= event.fee_will_apply_from:
        raise Moot("the fee has already started")
    notice = session.fees.get(event.fee_type)
    if notice and notice.applies_from != event.fee_will_apply_from:
        raise Moot("a later notice moved the start of this fee")
    warning = f"fee:{event.session_id}:{event.fee_type}"
    start = event.fee_will_apply_from.isoformat()
    fee = FEES.get(event.fee_type, ANY_FEE)
    ctx.push(
        session.user_id,
        title=TITLE.format(fee=fee),
        body=BODY.format(fee=fee, time=event.fee_will_apply_from),
        session_id=event.session_id,
        collapse_key=warning,
        idempotency_key=f"{warning}:{start}",
        expires_at=event.fee_will_apply_from,
        payload={"session_id": event.session_id, "fee_type": event.fee_type, "fee_will_apply_from": start},
    )
