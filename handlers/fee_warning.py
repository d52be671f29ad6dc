"""Warn a driver before an additional fee starts, and with REMIND_BEFORE once more shortly before.

The event does not name the driver, other events of the session do. The Drive API cannot help, because it finds a
session only by the user's id and the session's together. So the run waits for those events until the fee starts.

A notice is evidence that its session was going on then, and a car stays plugged in after a stop. So two things silence:

| status | silences |
|---|---|
| a COMPLETE of any time | every notice |
| STOPPED or START_FAILED, if it is the latest | notices that are older than it |
"""

from datetime import UTC, datetime, timedelta

from handlers import Context, Moot, RetryLater, on
from handlers.kit.session import NEVER, SessionWithDriver
from handlers.kit.templates import NotificationTemplate
from ingest.events import SessionFeeIncurring

TEMPLATE_SAMPLE = {"starts_at": datetime(2025, 10, 15, 9, 2, 48, tzinfo=UTC), "operator": "Example Charging"}
WARNING = NotificationTemplate("fee_warning", TEMPLATE_SAMPLE)
TOO_LATE = "too late: the fee has started, or will within FEE_WARNING_GRACE"
REMINDER = NotificationTemplate("fee_reminder", TEMPLATE_SAMPLE)


@on(SessionFeeIncurring, queue="urgent", follows_driver=True)
def warn_the_driver(event: SessionFeeIncurring, ctx: Context) -> None:
    """Push one warning each time that a fee's start is known or moves; it replaces the one before on the phone."""
    session = _session_to_warn(event, ctx)
    _push(event, ctx, session, WARNING, _idempotency_key(event, session))


@on(SessionFeeIncurring, when=lambda settings: settings.remind_before, follows_driver=True)
def remind_the_driver(event: SessionFeeIncurring, ctx: Context) -> None:
    """Push the warning once more REMIND_BEFORE the fee starts, replacing the first one on the phone."""
    remind_at = _before(event, ctx.settings.remind_before)
    if ctx.delivery.received_at >= remind_at:
        raise Moot("the first warning was late enough")
    session = _session_to_warn(event, ctx)
    wait = remind_at - ctx.now()
    if wait > timedelta():
        # Every event of the session ends the wait, so that the run does not outlive the session.
        raise RetryLater("it is not time yet", after=wait, until=_deadline(event, ctx), session_id=event.session_id)
    _push(event, ctx, session, REMINDER, f"{_idempotency_key(event, session)}:again")


def _session_to_warn(event: SessionFeeIncurring, ctx: Context) -> SessionWithDriver:
    """Return the session to warn of. Raise `Moot` if there is no reason to, `RetryLater` while no driver is known."""
    until = _deadline(event, ctx)
    session = ctx.session(event.session_id, until=until)
    if session.is_over_for(event.at):
        raise Moot("the session is over")
    if ctx.now() >= until:
        raise Moot(TOO_LATE)
    notice = session.fees.get(event.fee_type)
    if notice and notice.applies_from != event.fee_will_apply_from:
        raise Moot("a later notice has moved the start of this fee")
    return session


def _deadline(event: SessionFeeIncurring, ctx: Context) -> datetime:
    return _before(event, ctx.settings.fee_warning_grace)


def _before(event: SessionFeeIncurring, span: timedelta) -> datetime:
    """Return the time that is so long before the fee starts."""
    try:
        return event.fee_will_apply_from - span
    except OverflowError:  # before the calendar begins: an event may have any time
        return datetime.min.replace(tzinfo=UTC)


def _idempotency_key(event: SessionFeeIncurring, session: SessionWithDriver) -> str:
    """Return what makes two warnings the same: their session, type and start, and when the start was last another."""
    key, notice = f"{_collapse_key(event)}:{event.fee_will_apply_from.isoformat()}", session.fees.get(event.fee_type)
    moved_at = notice.moved_at if notice else event.at
    return key if moved_at == NEVER else f"{key}:{moved_at.isoformat()}"


def _collapse_key(event: SessionFeeIncurring) -> str:
    """Return the key that all warnings of one fee share on the phone."""
    return f"fee:{event.session_id}:{event.fee_type}"


def _push(
    event: SessionFeeIncurring, ctx: Context, session: SessionWithDriver, template: NotificationTemplate, key: str
) -> None:
    starts_at = event.fee_will_apply_from
    # The clock may have read it from the Drive API meanwhile. A warning does not wait for it.
    operator = session.operator
    text = ctx.render(template, session.user_id, kind=event.fee_type, starts_at=starts_at, operator=operator)
    ctx.push(
        session.user_id,
        title=text.title,
        body=text.body,
        session_id=event.session_id,
        collapse_key=_collapse_key(event),
        idempotency_key=key,
        expires_at=_deadline(event, ctx),
        payload={
            "session_id": event.session_id,
            "fee_type": event.fee_type,
            "fee_will_apply_from": starts_at.isoformat(),
        },
    )
