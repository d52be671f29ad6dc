'''What we do about an event: one file a plugin, and this page is all that a plugin needs.

A plugin is a module with marked functions. This one is whole:

    """Thank a driver for a finished session."""

    from handlers import Context, Moot, on
    from ingest.events import SessionComplete

    @on(SessionComplete)
    def thank_the_driver(event: SessionComplete, ctx: Context) -> None:
        """Push one thank-you per session."""
        session = ctx.session(event.session_id)  # tried again with new events, until the driver is known
        if session.started_at is None:
            raise Moot("no event reported its start")
        ctx.push(
            session.user_id,
            title="Thank you",
            body="Your session is complete.",
            collapse_key=f"thanks:{event.session_id}",
            session_id=event.session_id,
            even_if_over=True,
        )

Put it into this folder as a file of its own; or into a package of yours that names it in the entry-point group
`plugsurfing_webhooks.handlers`; or anywhere on the path, beside your `.env` for instance, named in `HANDLER_MODULES`.

`@on(SessionStarted, SessionStopped, ...)` names the events, classes of `ingest.events`; a class includes its
subclasses, so `SessionEvent` is every session event and `UnknownEvent` every event that was introduced since. The
function may be `async`. Its runs share the job of their batch; `queue="urgent"` gives each a job of its own there,
unless the batch itself came on that queue. `when=lambda settings: ...` enables a handler by the settings;
`follows_driver=True` runs it again when its session turns out to have another driver; `healed=True` also when an event
never came and the Drive API says that it was so.

A handler runs at least once, with no transaction open. What it writes through `ctx` - `ctx.push(...)` to a driver,
`ctx.write(statement)` to the database - takes effect exactly once, together with its outcome, when it returns.
A statement that is a constant of the module, executed as `ctx.write(STATEMENT, {...})`, costs a tenth.
`ctx.session(id)` and `ctx.read(statement)` read; there are also `ctx.now()`, `ctx.log`, `ctx.attempt`, `ctx.delivery`.

`ctx.render(TEMPLATE, user_id, ...)` renders a notification in the driver's language and time zone, from templates that
a team may replace: see `handlers.kit.templates`. `ctx.settings` are the process's; a plugin's own are a subclass of
`PluginSettings`, made when it is imported, from the environment and `.env`: an invalid one is reported at start.

`PluginTables("thanks", migrations=...)` are tables of a plugin's own, each with the columns that name a driver or a
session, and how long rows are kept: `webhooks plugin new NAME --table` writes one with its first migration.

A handler returns when it is done, or raises: `RetryLater(reason, after=, until=, session_id=)` to be tried again,
`Moot(reason)` when there is nothing left to do, `GiveUp(reason)` when trying again cannot help. Any other exception is
retried by the retry policy and ends as a dead letter. `handlers.kit.testing` tests a plugin without a worker.

`@event("SESSION_PAUSED", status="PAUSED", sample={"reason": "GRID"})` marks a subclass of `SessionEvent` as the events
of a name that this version does not know. From then on each is decoded as one and merged into its session, and
`webhooks send SESSION_PAUSED` sends one with the fields of the sample.

`@channel("sms")` marks a function `(push: OutgoingPush) -> None` as a channel that `PUSH` may name; it raises
`PushFailed` when the push was not accepted. With `to_devices=True` it is called for each `Device` of the driver and may
raise `Unregistered`. `@devices` marks a function `(user_id) -> list[Device]`, if you have a registry of your own.

`@record(SessionStarted, ...)` marks a pure `(session, event) -> session` that is applied to the session before any
handler runs. Events come in any order and twice, so it must be a merge.

`@authorize(order=100)` marks a function `(request: AuthorizationRequest, ctx: AuthorizeContext) -> Decision | None`,
plain or async, as a policy, called when Plugsurfing asks whether a key may charge. Lower orders are called first, the
first decision wins, None leaves it to the next; when none decides the answer is ALLOWED.
'''

from handlers.kit.channel import Device, OutgoingPush, PushFailed, Unregistered, channel, devices
from handlers.kit.context import Context
from handlers.kit.event_types import event
from handlers.kit.plugin_settings import PluginSettings
from handlers.kit.plugin_tables import PluginTables
from handlers.kit.policies import AuthorizeContext, authorize
from handlers.kit.signals import GiveUp, Moot, RetryLater
from handlers.kit.subscriptions import on, record
from ingest.wire.authorization.request import Allowed, AuthorizationRequest, Decision

__all__ = [
    "Allowed",
    "AuthorizationRequest",
    "AuthorizeContext",
    "Context",
    "Decision",
    "Device",
    "GiveUp",
    "Moot",
    "OutgoingPush",
    "PluginSettings",
    "PluginTables",
    "PushFailed",
    "RetryLater",
    "Unregistered",
    "authorize",
    "channel",
    "devices",
    "event",
    "on",
    "record",
]
