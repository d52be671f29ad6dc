"""The API of devices: who may write, what a path and a body must be, and the responses otherwise."""

import json
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from sqlalchemy import Engine, text
from starlette.testclient import TestClient
from structlog.testing import capture_logs

from ingest.config.settings import Settings, load_settings
from ingest.errors import SettingsError
from ingest.server.graceful_shutdown import DrainingServer
from ingest.server.http_protocol import BoundedHttpProtocol
from tests.ports import reserve_port
from workers.devices import devices_app
from workers.devices.devices_app import MAX_BODY_BYTES, create_devices_app
from workers.ledger import devices
from workers.ledger.database.engine import create_ledger_engine
from workers.ledger.tables import metadata

DEVICE = {"platform": "android", "locale": "nl-BE", "time_zone": "Europe/Brussels"}


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = create_ledger_engine(f"sqlite:///{tmp_path / 'ledger.db'}", creates_file=True)
    metadata.create_all(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def client(engine: Engine, settings: Settings) -> TestClient:
    return TestClient(create_devices_app(settings, engine))


def found(engine: Engine, user_id: str = "driver 1") -> list[tuple[str, ...]]:
    with engine.begin() as ledger:
        return [(each.token, each.platform, each.locale, each.time_zone) for each in devices.of_user(ledger, user_id)]


def path(user_id: str = "driver 1", token: str = "token:1") -> str:
    return f"/devices/{quote(user_id, safe='')}/{quote(token, safe='')}"


def test_a_device_is_registered_changed_and_removed(client, engine):
    assert client.put(path(), json=DEVICE).status_code == 204
    assert found(engine) == [("token:1", "android", "nl-BE", "Europe/Brussels")]
    assert client.put(path()).status_code == 204
    assert found(engine) == [("token:1", None, None, None)]
    assert client.delete(path()).status_code == 204
    assert client.delete(path()).status_code == 204
    assert found(engine) == []


def test_a_device_belongs_to_the_last_user_and_a_late_removal_by_the_first_keeps_it(client, engine):
    client.put(path("driver 1"), json=DEVICE)
    client.put(path("driver 2"), json=DEVICE)
    client.delete(path("driver 1"))
    assert found(engine, "driver 1") == []
    assert [token for token, *_ in found(engine, "driver 2")] == ["token:1"]


def test_ids_may_have_any_visible_character(client, engine):
    user_id, token = "a/b?c#d%2F é…", "x:y/z&=+"
    assert client.put(path(user_id, token), json=DEVICE).status_code == 204
    assert found(engine, user_id) == [(token, "android", "nl-BE", "Europe/Brussels")]


@pytest.mark.parametrize(
    ("body", "status", "word"),
    [
        (b"{", 400, "JSON"),
        (b"[" * 4000, 400, "JSON"),
        (b"\xff", 400, "JSON"),
        (b"[]", 422, "object"),
        (b'{"locale": "' + b"e" * MAX_BODY_BYTES + b'"}', 413, "bytes"),
    ],
)
def test_a_bad_body_is_refused_with_a_sentence(client, engine, body, status, word):
    answer = client.put(path(), content=body)
    assert answer.status_code == status
    assert word in answer.json()["error"]
    assert found(engine) == []


@pytest.mark.parametrize(
    ("body", "stored"),
    [
        ({"platform": "iOS", "locale": "de_DE.UTF-8", "time_zone": "GMT+02:00"}, ("ios", "de-DE", "UTC+02:00")),
        ({"locale": "en-US-u-fw-mon-mu-celsius", "time_zone": "europe/berlin"}, (None, "en-US", "Europe/Berlin")),
        ({"platform": "", "locale": "", "time_zone": ""}, (None, None, None)),
        ({"platform": None, "locale": None, "time_zone": None}, (None, None, None)),
        ({"platform": "toaster", "locale": "../../etc", "time_zone": "Asia/Hanoi"}, (None, None, None)),
        ({"platform": 7, "locale": ["de"], "time_zone": {"offset": 2}}, (None, None, None)),
        ({"locale": "e" * 50_000, "time_zone": "\0\ud800"}, (None, None, None)),
        ({"locale": "sv", "app_version": "3.1", "timezone": "Europe/Berlin", "": None}, (None, "sv", None)),
    ],
)
def test_a_phone_is_registered_whatever_it_says_of_itself(client, engine, body, stored):
    assert client.put(path(), content=json.dumps(body).encode()).status_code == 204
    assert found(engine) == [("token:1", *stored)]


def test_what_was_not_understood_is_logged_without_its_value(client):
    with capture_logs() as logged:
        client.put(path(), json={"locale": "secret words", "time_zone": "", "platform": "web"})
    assert [(each["event"], each["fields"]) for each in logged] == [("device.not_understood", ("locale",))]


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("/devices/driver", 404),
        ("/devices/driver/a/b", 404),
        ("/devices/%20/token", 422),
        ("/devices/driver/%00", 422),
        ("/devices/driver/a%0A", 422),
        ("/devices/driver/%FF", 400),
        (f"/devices/driver/{'t' * 2001}", 422),
        (f"/devices/{'u' * 256}/token", 422),
    ],
)
def test_a_bad_path_is_refused_with_a_sentence(client, target, status):
    answer = client.put(target, json=DEVICE)
    assert answer.status_code == status
    assert answer.json()["error"].endswith(".")


def test_other_methods_are_not_allowed(client):
    answer = client.post(path(), json=DEVICE)
    assert answer.status_code == 405
    assert set(answer.headers["allow"].split(", ")) == {"PUT", "DELETE"}
    assert client.get("/healthz").json() == {"status": "ok"}


@pytest.mark.parametrize("given", [None, "", "the-token", "Bearer", "Bearer wrong", "Basic the-token", "Bearer é"])
def test_without_the_token_nothing_is_registered_or_removed(engine, tmp_path: Path, given):
    client = TestClient(create_devices_app(load_settings(data_dir=tmp_path, admin_token="the-token"), engine))
    headers = {} if given is None else {"authorization": given.encode()}
    for answer in (client.put(path(), json=DEVICE, headers=headers), client.delete(path(), headers=headers)):
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
    assert found(engine) == []


def test_with_the_token_a_device_is_registered(engine, tmp_path: Path):
    (tmp_path / "token").write_text("the-token\n")
    client = TestClient(create_devices_app(load_settings(admin_token_file=tmp_path / "token"), engine))
    assert client.put(path(), json=DEVICE, headers={"authorization": "bearer the-token"}).status_code == 204


@pytest.mark.parametrize(
    "settings", [{"host": "0.0.0.0"}, {"host": "example.org"}, {"admin_token": " "}, {"admin_token": "\n"}]
)
def test_it_does_not_start_open_to_other_machines(engine, settings):
    with pytest.raises(SettingsError, match="ADMIN_TOKEN"):
        create_devices_app(load_settings(**settings), engine)


def test_with_a_token_it_may_listen_anywhere(engine):
    assert create_devices_app(load_settings(host="0.0.0.0", admin_token="the-token"), engine)


def test_while_the_database_is_unavailable_the_response_asks_to_try_again(engine, settings, monkeypatch):
    monkeypatch.setattr("workers.devices.devices_app.DATABASE_TIMEOUT", 0.1)
    with engine.begin() as ledger:
        ledger.execute(text("DROP TABLE devices"))
    missing = TestClient(create_devices_app(settings, create_ledger_engine("postgresql+psycopg://u@127.0.0.1:1/none")))
    answer = missing.put(path(), json=DEVICE)
    assert answer.status_code == 503
    assert "again" in json.loads(answer.content)["error"]


def test_an_empty_file_of_the_token_does_not_open_the_devices(engine, tmp_path):
    (tmp_path / "token").touch()
    with pytest.raises(SettingsError, match="ADMIN_TOKEN is set, but empty"):
        create_devices_app(load_settings(admin_token_file=tmp_path / "token"), engine)


def test_strangers_can_hold_no_more_of_it_than_of_any_server(settings, monkeypatch):
    served = []
    monkeypatch.setattr(devices_app, "configure_logging", lambda *_: None)
    monkeypatch.setattr(devices_app, "prepare_process", lambda: None)
    monkeypatch.setattr(DrainingServer, "run", lambda server, sockets: served.append((server.config, sockets)))
    devices_app.serve_devices(settings.model_copy(update={"devices_port": reserve_port(), "max_connections": 7}))
    ((config, (listener,)),) = served
    listener.close()
    assert (config.connection_limit.most, config.http) == (7, BoundedHttpProtocol)
