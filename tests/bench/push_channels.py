"""A plugin of the bench: a channel of its own, handlers that are slow or replayed, and FCM at an address of ours."""

import os
import time
from contextlib import suppress

import httpx

from handlers import Context, OutgoingPush, PushFailed, channel, on
from ingest.events import SessionStarted

URL = os.environ["BENCH_PUSH_URL"]
SLOW_S = float(os.environ.get("BENCH_SLOW_S", "0"))
CLIENT = httpx.Client(limits=httpx.Limits(max_connections=None))

with suppress(ImportError):  # the extra fcm is not installed
    from firebase_admin import messaging
    from google.auth.credentials import CredentialsWithRegionalAccessBoundary

    messaging._MessagingService.FCM_URL = f"{URL}v1/projects/{{0}}/messages:send"  # noqa: SLF001 - there is no setting
    # Else the library asks the real Google, beside everything, in which regions this made-up account may be used.
    CredentialsWithRegionalAccessBoundary._is_regional_access_boundary_lookup_required = lambda _: False  # noqa: SLF001


@channel("plugin")
def by_plugin(push: OutgoingPush) -> None:
    """Send one push, as the channel of a team would."""
    answer = CLIENT.post(URL, json={"user_id": push.user_id}, timeout=push.timeout.total_seconds())
    if not answer.is_success:
        raise PushFailed(f"the service answered {answer.status_code}", throttled=answer.status_code == 429)


@on(SessionStarted, when=lambda _: bool(SLOW_S))
def slow(event: SessionStarted, ctx: Context) -> None:
    """Take long."""
    time.sleep(SLOW_S)


@on(SessionStarted, when=lambda _: "BENCH_REPLAYED" in os.environ)
def replayed(event: SessionStarted, ctx: Context) -> None:
    """Do nothing: what is replayed."""
