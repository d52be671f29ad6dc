"""The channel `fcm`: Firebase Cloud Messaging v1 with Google's SDK, one send for each device of the driver."""

import importlib
import importlib.util
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any, Self

from handlers.kit.channel import OutgoingPush, PushFailed, Unregistered
from ingest.config.settings import Settings
from ingest.errors import SettingsError
from workers.push.http_status import failure_for_status

MAX_TTL = timedelta(days=28)
"""The longest time to live that FCM accepts."""
COLLAPSE_BYTES = 64
"""The longest apns-collapse-id that Apple accepts."""


@dataclass(frozen=True)
class FcmChannel:
    """Sends pushes to devices through Firebase."""

    credentials: Path
    timeout: timedelta

    to_devices = True

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Open the channel. Raise SettingsError if a setting is missing; Google is called with the first push."""
        if importlib.util.find_spec("firebase_admin") is None:
            raise SettingsError("PUSH names fcm, which needs: pip install 'plugsurfing-webhooks[fcm]'.")
        if settings.push_fcm_credentials is None:
            raise SettingsError("PUSH_FCM_CREDENTIALS is not set: the channel fcm needs the file of a service account.")
        try:
            account = json.loads(settings.push_fcm_credentials.read_bytes())
        except (OSError, ValueError) as error:
            raise SettingsError(f"PUSH_FCM_CREDENTIALS cannot be read ({type(error).__name__}).") from None
        if not isinstance(account, dict) or account.get("type") != "service_account":
            raise SettingsError("PUSH_FCM_CREDENTIALS is not the JSON file of a service account.")
        return cls(settings.push_fcm_credentials, settings.push_timeout)

    def send(self, push: OutgoingPush) -> None:
        """Send a push to `push.device`; raise Unregistered if Google does not know it any more."""
        sdk, messaging, app = self._sdk
        try:
            messaging.send(messaging.Message(**_build_message(push, messaging)), app=app)
        except messaging.UnregisteredError:
            raise Unregistered from None
        except messaging.SenderIdMismatchError:
            raise PushFailed("FCM answered 403", retryable=False) from None
        except sdk.exceptions.FirebaseError as error:
            raise _failure(error) from None
        except ValueError:
            # Its text may quote what is wrong: the token, the payload.
            raise PushFailed("the SDK refused the push as malformed", retryable=False) from None

    @cached_property
    def _sdk(self) -> tuple[Any, Any, Any]:
        """The SDK, imported with the first push as that takes a second; one session serves all threads."""
        sdk = importlib.import_module("firebase_admin")
        messaging = importlib.import_module("firebase_admin.messaging")
        importlib.import_module("firebase_admin.exceptions")
        app = sdk.initialize_app(
            sdk.credentials.Certificate(str(self.credentials)),
            {"httpTimeout": self.timeout.total_seconds()},
            name=f"webhooks-{secrets.token_hex(8)}",
        )
        # The SDK would retry by itself, and sleep for as long as a Retry-After says, in our thread. It has no setting
        # for that; a test notices when this no longer prevents it.
        for adapter in messaging._get_messaging_service(app)._client.session.adapters.values():  # noqa: SLF001 - see above
            adapter.max_retries = adapter.max_retries.new(total=0, connect=0, read=0, status=0, other=0)
        return sdk, messaging, app


def _build_message(push: OutgoingPush, messaging: Any) -> Mapping[str, Any]:
    """Return the SDK's arguments for a push: its text, its time to live and its collapse key, for both systems."""
    if push.device is None:
        raise PushFailed("fcm sends to devices only", retryable=False)
    collapse_key = push.collapse_key
    if len(collapse_key.encode()) > COLLAPSE_BYTES:
        collapse_key = sha256(collapse_key.encode()).hexdigest()
    now = datetime.now(UTC)
    ttl = min(max((push.expires_at or now + MAX_TTL) - now, timedelta()), MAX_TTL)
    return {
        "token": push.device.token,
        "notification": messaging.Notification(title=push.title, body=push.body),
        "data": dict(push.payload),
        "android": messaging.AndroidConfig(
            collapse_key=collapse_key,
            priority="high",
            ttl=ttl,
            # The collapse key replaces what still waits at Google, the tag what is on the screen already.
            notification=messaging.AndroidNotification(tag=collapse_key),
        ),
        "apns": messaging.APNSConfig(
            headers={
                "apns-priority": "10",
                "apns-expiration": str(int((now + ttl).timestamp())),
                "apns-collapse-id": collapse_key,
            },
            payload=messaging.APNSPayload(aps=messaging.Aps(sound="default")),
        ),
    }


def _failure(error: Any) -> PushFailed:
    response = error.http_response
    if response is None:
        return PushFailed(f"FCM could not be reached: {error.code}")
    failure = failure_for_status("FCM", response.status_code, response.headers.get("Retry-After"))
    return failure or PushFailed("FCM sent a response that the SDK does not understand")
