"""The channel `fcm`: Google's SDK, with a service account and an endpoint of the test's own."""

import json
import logging
import time
from datetime import UTC, datetime, timedelta

import pytest
from starlette.responses import JSONResponse

from handlers import Device
from ingest.config.settings import load_settings
from ingest.errors import SettingsError
from workers.clock.push_sender import send_due
from workers.ledger import devices
from workers.ledger.states import PushState
from workers.push.registry import open_channels

messaging = pytest.importorskip("firebase_admin.messaging", reason="the extra fcm is not installed")
rsa = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.rsa")
serialization = pytest.importorskip("cryptography.hazmat.primitives.serialization")

WITH_REGIONS = (
    "google.auth.credentials.CredentialsWithRegionalAccessBoundary._is_regional_access_boundary_lookup_required"
)
GOOGLE = "type.googleapis.com/google.firebase.fcm.v1.FcmError"


# What replaces the token, an id of Firebase's own, is not what apps register today.
pytestmark = pytest.mark.filterwarnings("ignore:Message.token is deprecated")


@pytest.fixture(scope="session")
def private_key():
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    return key.private_bytes(*form).decode()


@pytest.fixture
def account(provider, private_key, tmp_path):
    """The file of a service account whose Google is the provider of the tests."""
    file = tmp_path / "account.json"
    file.write_text(
        json.dumps(
            {
                "type": "service_account",
                "project_id": "a-project",
                "private_key_id": "1",
                "private_key": private_key,
                "client_email": "webhooks@a-project.example",
                "client_id": "1",
                "token_uri": f"{provider.url}/token",
            }
        )
    )
    return file


@pytest.fixture
def node(push_node, provider, account, monkeypatch):
    """A push_node with the channel `fcm`, and a driver with two devices."""
    service, url = messaging._MessagingService, f"{provider.url}/v1/projects/{{0}}/messages:send"  # noqa: SLF001 - there is no setting
    monkeypatch.setattr(service, "FCM_URL", url)
    # Else the library asks the real Google, beside everything, in which regions this made-up account may be used.
    monkeypatch.setattr(WITH_REGIONS, lambda _credentials: False)
    provider.answer = lambda _body: JSONResponse({"name": "projects/a-project/messages/1"})
    node = push_node(push="fcm", push_fcm_credentials=account)
    with node.resources.engine.begin() as ledger:
        for name, platform in (("phone-token", "android"), ("tablet-token", "ios")):
            devices.upsert(ledger, "driver-1", Device(name, platform), datetime.now(UTC))
    return node


def refusing(status, code, *, only=None, headers=None):
    """Answer as FCM does when it refuses; `only` for one token."""

    def answer(body):
        if only not in {None, body["message"]["token"]}:
            return JSONResponse({"name": "projects/a-project/messages/1"})
        error = {"code": status, "status": code, "message": "no", "details": [{"@type": GOOGLE, "errorCode": code}]}
        return JSONResponse({"error": error}, status, headers=headers)

    return answer


def tokens(node):
    with node.resources.engine.begin() as ledger:
        return sorted(device.token for device in devices.of_user(ledger, "driver-1"))


def tokens_sent_to(provider):
    return sorted(body["message"]["token"] for body in provider.bodies)


def test_a_push_is_sent_to_each_device_for_both_systems(node, provider):
    expires_at = datetime.now(UTC) + timedelta(minutes=10)
    node.push(collapse_key="fee:s1", expires_at=expires_at, payload={"session_id": "s1"})
    assert send_due(node.resources) == 1
    assert tokens_sent_to(provider) == ["phone-token", "tablet-token"]
    told = provider.bodies[0]["message"]
    assert told["notification"] == {"title": "Fee", "body": "Soon"}
    assert told["data"] == {"session_id": "s1"}
    assert told["android"]["priority"] == "high"
    assert told["android"]["collapse_key"] == told["android"]["notification"]["tag"] == "fee:s1"
    assert 590 < float(told["android"]["ttl"].removesuffix("s")) <= 600
    assert told["apns"]["headers"]["apns-priority"] == "10"
    assert told["apns"]["headers"]["apns-collapse-id"] == "fee:s1"
    assert abs(int(told["apns"]["headers"]["apns-expiration"]) - expires_at.timestamp()) <= 1
    assert node.row().state is PushState.SENT


def test_a_long_collapse_key_is_hashed_to_what_apple_accepts(node, provider):
    node.push(collapse_key="fee:" + "é" * 90)
    send_due(node.resources)
    assert len(provider.bodies[0]["message"]["apns"]["headers"]["apns-collapse-id"].encode()) == 64


def test_an_unregistered_device_is_removed_and_the_others_get_the_push(node, provider):
    provider.answer = refusing(404, "UNREGISTERED", only="phone-token")
    node.push()
    assert send_due(node.resources) == 1
    assert node.row().state is PushState.SENT
    assert tokens(node) == ["tablet-token"]


def test_a_driver_whose_devices_are_all_unregistered_gets_no_push(node, provider):
    provider.answer = refusing(404, "UNREGISTERED")
    node.push()
    send_due(node.resources)
    row = node.row()
    assert (row.state, row.error) == (PushState.MOOT, "the provider no longer knows the device")
    assert tokens(node) == []
    node.push(2)
    send_due(node.resources)
    assert {row.error for row in node.rows()} >= {"the driver has no device"}


def test_only_the_device_that_failed_is_retried(node, provider, until):
    provider.answer = refusing(503, "UNAVAILABLE", only="phone-token")
    node.push()
    send_due(node.resources)
    assert node.row().state is PushState.WAITING
    provider.answer = lambda _body: JSONResponse({"name": "1"})
    provider.bodies.clear()
    until(lambda: send_due(node.resources))
    assert tokens_sent_to(provider) == ["phone-token"]
    assert node.row().state is PushState.SENT


@pytest.mark.parametrize(
    ("status", "code", "state"),
    [
        (500, "INTERNAL", PushState.WAITING),
        (503, "UNAVAILABLE", PushState.WAITING),
        (429, "QUOTA_EXCEEDED", PushState.WAITING),
        (400, "INVALID_ARGUMENT", PushState.DEAD),
        (403, "SENDER_ID_MISMATCH", PushState.DEAD),
    ],
)
def test_the_response_of_google_decides_the_state(node, provider, status, code, state):
    provider.answer = refusing(status, code)
    node.push()
    send_due(node.resources)
    row = node.row()
    assert (row.state, row.error) == (state, f"FCM answered {status}")
    assert tokens(node) == ["phone-token", "tablet-token"]
    assert len(provider.bodies) == 2 * row.attempts  # the SDK does not try again by itself


def test_retry_after_is_obeyed_without_sleeping(node, provider):
    provider.answer = refusing(429, "QUOTA_EXCEEDED", headers={"retry-after": "40"})
    node.push()
    began = time.monotonic()
    send_due(node.resources)
    assert time.monotonic() - began < 20
    assert node.row().due_at > datetime.now(UTC) + timedelta(seconds=20)


def test_a_response_that_never_comes_times_out(push_node, node, provider, account):
    impatient = push_node(push="fcm", push_fcm_credentials=account, push_timeout="2s")
    impatient.push()
    send_due(impatient.resources)  # the SDK is imported, and has an access token
    provider.is_working.clear()
    impatient.push(2, user_id="driver-1")
    send_due(impatient.resources)
    assert impatient.states() == ["sent", "waiting"]


def test_a_google_that_cannot_be_reached_is_retried(node, account):
    told = json.loads(account.read_text())
    account.write_text(json.dumps({**told, "token_uri": "http://127.0.0.1:1/token"}))
    node.push()
    send_due(node.resources)
    assert node.row().state is PushState.WAITING


def test_neither_user_nor_token_is_logged(node, provider, caplog):
    caplog.set_level(logging.INFO)
    provider.answer = refusing(503, "UNAVAILABLE", only="phone-token")
    node.push()
    send_due(node.resources)
    assert "driver-1" not in caplog.text
    assert "-token" not in caplog.text


def test_a_file_that_is_no_service_account_is_refused_at_the_start(tmp_path):
    (tmp_path / "other.json").write_text('{"type": "authorized_user", "client_secret": "secret"}')
    for path in (None, tmp_path / "nowhere.json", tmp_path / "other.json"):
        with pytest.raises(SettingsError, match="PUSH_FCM_CREDENTIALS") as caught:
            open_channels(load_settings(push="fcm", push_fcm_credentials=path))
        assert "secret" not in str(caught.value)


def test_without_the_sdk_the_error_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(SettingsError, match=r"\[fcm\]"):
        open_channels(load_settings(push="fcm"))
