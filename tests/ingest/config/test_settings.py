import os
import re
from datetime import timedelta
from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError
from sqlalchemy import make_url

from ingest.config import settings as settings_module
from ingest.config.describe import NOT_SET
from ingest.config.keyring import Keyring
from ingest.config.secrets import EXACT, authorization_values
from ingest.config.sections.authorization import ByteOrder, OnIndeterminate
from ingest.config.sections.logging import LogFormat, LogLevel
from ingest.config.settings import SECRETS, SERVE_SECTIONS, Settings, load_settings
from ingest.errors import SettingsError
from ingest.wire.authorization.request import Allowed
from ingest.wire.signature import KeyEncoding, decode_key


@pytest.fixture(autouse=True)
def bare_environment(tmp_path, monkeypatch):
    """No setting of the machine that the tests run on, and no `.env` but the test's own."""
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.chdir(tmp_path)


def refused(**overrides):
    with pytest.raises(SettingsError) as caught:
        load_settings(**overrides)
    sentence = str(caught.value)
    assert re.fullmatch(r"[A-Z_]+(_FILE)? .+\.|The file \.env .+\.", sentence)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None or "secret" not in str(caught.value.__context__)
    return sentence


def test_the_defaults_need_no_environment(tmp_path):
    settings = load_settings()
    assert settings.data_dir == tmp_path / "var"
    assert settings.database_url == f"sqlite:///{tmp_path}/var/ledger.db"
    assert settings.redis_url is None
    assert (settings.host, settings.port, settings.dashboard_port) == ("127.0.0.1", 8000, 8002)
    assert (settings.max_body_bytes, settings.body_timeout) == (1048576, timedelta(seconds=5))
    assert (settings.push, settings.log_format, settings.log_level) == (("log",), None, LogLevel.INFO)


def test_the_environment_is_read_before_dotenv_and_overrides_before_both(tmp_path, monkeypatch):
    (tmp_path / ".env").write_text("PORT=1\nBATCH_DELIVERIES=2\nHOST=0.0.0.0\nSOMETHING_ELSE=x\n")
    monkeypatch.setenv("PORT", "3")
    monkeypatch.setenv("BATCH_DELIVERIES", "4")
    settings = load_settings(batch_deliveries=5)
    assert (settings.host, settings.port, settings.batch_deliveries) == ("0.0.0.0", 3, 5)


def test_every_kind_of_setting_is_parsed_from_text(monkeypatch, tmp_path):
    environment = {
        "DATA_DIR": str(tmp_path / "elsewhere"),
        "PLUGSURFING_HMAC_CURRENT": "c2VjcmV0",
        "PLUGSURFING_HMAC_ENCODING": "base64",
        "PLUGSURFING_HMAC_REQUIRED": "false",
        "PLUGSURFING_AUTHORIZATION": "Bearer a\n\n Bearer b ",
        "REDIS_URL": "redis+sentinel://a:1,b:2/service/0",
        "HOLD_BACK": "250ms",
        "FAILED_JOBS_KEPT": "8d",
        "HANDLER_MODULES": "mine.handlers, yours,",
        "PUSH": "log",
        "LOG_FORMAT": "json",
        "LOG_LEVEL": "debug",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    settings = load_settings()
    assert settings.database_url == f"sqlite:///{tmp_path}/elsewhere/ledger.db"
    assert settings.plugsurfing_hmac_current == SecretStr("c2VjcmV0")
    assert settings.plugsurfing_hmac_encoding is KeyEncoding.BASE64
    assert settings.plugsurfing_hmac_required is False
    assert (settings.hold_back, settings.failed_jobs_kept) == (timedelta(milliseconds=250), timedelta(days=8))
    assert settings.handler_modules == ("mine.handlers", "yours")
    assert (settings.log_format, settings.log_level) == (LogFormat.JSON, LogLevel.DEBUG)
    assert settings.require_redis() == environment["REDIS_URL"]


def test_settings_cannot_be_changed():
    with pytest.raises(ValidationError):
        load_settings().port = 1


def test_an_unknown_override_is_a_type_error():
    with pytest.raises(TypeError, match="no setting hots, prot"):
        load_settings(prot=1, hots="x")


def test_an_empty_value_counts_as_unset(monkeypatch):
    for name in Settings.model_fields:
        if not name.startswith("plugsurfing_hmac_"):
            monkeypatch.setenv(name.upper(), "")
    settings = load_settings()
    assert (settings.redis_url, settings.port, settings.plugsurfing_authorization) == (None, 8000, None)


@pytest.mark.parametrize("name", ["plugsurfing_hmac_current", "plugsurfing_hmac_next"])
@pytest.mark.parametrize("blank", ["", " ", "\n\t"])
def test_an_empty_key_is_refused(name, blank, monkeypatch):
    monkeypatch.setenv(name.upper(), blank)
    assert refused() == f"{name.upper()} is set, but empty."


def test_equal_keys_are_refused_however_they_are_written():
    same = "PLUGSURFING_HMAC_CURRENT and PLUGSURFING_HMAC_NEXT are the same key."
    assert refused(plugsurfing_hmac_current="secret", plugsurfing_hmac_next="secret") == same
    assert refused(plugsurfing_hmac_current="aB", plugsurfing_hmac_next="Ab", plugsurfing_hmac_encoding="hex") == same
    assert load_settings(plugsurfing_hmac_current="aB", plugsurfing_hmac_next="Ab")


@pytest.mark.parametrize("encoding", ["base64", "hex"])
@pytest.mark.parametrize("name", ["plugsurfing_hmac_current", "plugsurfing_hmac_next"])
def test_a_key_that_does_not_decode_is_refused_by_name(name, encoding):
    sentence = refused(**{name: "not-secret!", "plugsurfing_hmac_encoding": encoding})
    assert sentence == f"{name.upper()} is not {encoding}, see PLUGSURFING_HMAC_ENCODING."


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("plugsurfing_authorization", " \n "),
        ("plugsurfing_hmac_encoding", "secret"),
        ("plugsurfing_hmac_required", "secret"),
        ("port", "secret"),
        ("port", "65536"),
        ("port", "-1"),
        ("max_body_bytes", "0"),
        ("body_timeout", "secret"),
        ("body_timeout", "0"),
        ("hold_back", "-1"),
        ("redis_url", "http://secret"),
        ("database_url", "mysql://secret"),
        ("push", "FCM secret"),
        ("push", ","),
        ("log_format", "secret"),
        ("log_level", "secret"),
        ("poison_deaths", "1.5"),
    ],
)
def test_a_wrong_value_is_refused_by_name_and_is_not_shown(name, value, monkeypatch):
    monkeypatch.setenv(name.upper(), value)
    sentence = refused()
    assert sentence.startswith(f"{name.upper()} ")
    assert "secret" not in sentence


def test_a_wrong_value_in_dotenv_is_not_shown(tmp_path):
    (tmp_path / ".env").write_text("REDIS_URL=secret\n")
    assert "REDIS_URL" in refused()


def test_a_dotenv_that_cannot_be_read_is_refused(tmp_path):
    (tmp_path / ".env").write_bytes(b"PORT=\xff\n")
    assert refused() == "The file .env cannot be read (UnicodeDecodeError)."


@pytest.mark.parametrize("name", ["PLUGSURFING_HMAC_CURRENT", "PLUGSURFING_AUTHORIZATION"])
def test_a_secret_that_is_not_utf8_is_refused(name, monkeypatch):
    monkeypatch.setitem(os.environb, name.encode(), b"secret\xff")
    assert refused().startswith(f"{name} is not utf8")


@pytest.mark.parametrize("name", ["PORT", "DASHBOARD_PORT", "DEVICES_PORT", "AUTHORIZE_PORT"])
@pytest.mark.parametrize("link", ["tcp://10.0.0.1:8002", "udp://[fd00::1]:53", " TCP://10.0.0.1:80\n"])
def test_a_service_link_counts_as_not_set_and_is_remarked_once(name, link, monkeypatch, tmp_path):
    default = getattr(load_settings(), name.lower())
    monkeypatch.setenv(name, link)
    assert getattr(load_settings(), name.lower()) == default
    (tmp_path / ".env").write_text(f"{name}=9000\n")
    settings = load_settings()
    assert getattr(settings, name.lower()) == 9000
    assert settings.remarks == (f"{name} is a service link of Kubernetes or Docker, and ignored.",)
    assert getattr(load_settings(**{name.lower(): 9001}), name.lower()) == 9001


def test_serve_does_not_read_the_settings_of_other_processes(monkeypatch, tmp_path):
    for name in ("DASHBOARD_PORT", "DRIVE_TIMEOUT", "PUSH_HTTP_URL", "AUTHORIZE_KEY", "WATCH_BUSY", "RECONCILE_AFTER"):
        monkeypatch.setenv(name, "wrong")
    monkeypatch.setenv("DASHBOARD_PASSWORD_FILE", str(tmp_path / "missing"))
    monkeypatch.setenv("PORT", "9000")
    refused()
    assert load_settings(*SERVE_SECTIONS).port == 9000


@pytest.mark.parametrize("name", ["PORT", "BATCH_BYTES", "REDIS_URL", "LOG_LEVEL", "HOLD_BACK"])
def test_serve_refuses_its_own_settings(name, monkeypatch):
    monkeypatch.setenv(name, "wrong,")
    with pytest.raises(SettingsError, match=name):
        load_settings(*SERVE_SECTIONS)


def test_serve_reads_no_setting_that_it_would_not_load():
    root = Path(settings_module.__file__).parents[1]
    modules = [path for path in root.rglob("*.py") if path.relative_to(root).parts[0] not in {"authorize", "config"}]
    used = {name for path in modules for name in re.findall(r"settings\.([a-z_0-9]+)", path.read_text())}
    loaded = {name for section in SERVE_SECTIONS for name in section.model_fields}
    assert {"port", "hold_back", "cdr_request_id"} <= used & set(Settings.model_fields) <= loaded


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("LOG_LEVEL", "INFO", LogLevel.INFO),
        ("LOG_LEVEL", "warn", LogLevel.WARNING),
        ("LOG_LEVEL", "Warn ", LogLevel.WARNING),
        ("LOG_FORMAT", "JSON", LogFormat.JSON),
        ("PLUGSURFING_HMAC_ENCODING", "Base64", KeyEncoding.BASE64),
        ("AUTHORIZE_KEY_BYTES", "BIG", ByteOrder.BIG),
        ("AUTHORIZE_WITHOUT_FACTS", "Fail", OnIndeterminate.FAIL),
        ("AUTHORIZE_ON_FAILURE", "not_allowed", Allowed.NOT_ALLOWED),
    ],
)
def test_a_name_is_read_in_any_case(name, text, expected, monkeypatch):
    monkeypatch.setenv(name, text)
    assert getattr(load_settings(), name.lower()) is expected


VISIBLE = {"redis_url": "redis://host", "database_url": "sqlite:///x.db", "drive_api_url": "https://host/drive"}
INVISIBLE = [" ", "\t", "\u00a0", "\u200b", "\u2028"]


def set_in(where, name, text, monkeypatch, folder):
    if where == "variable":
        monkeypatch.setenv(name.upper(), text)
    else:
        (folder / "secret").write_bytes(text.encode())
        monkeypatch.setenv(f"{name.upper()}_FILE", str(folder / "secret"))


def plain(value):
    return value.get_secret_value() if isinstance(value, SecretStr) else value


@pytest.mark.parametrize("where", ["variable", "file"])
@pytest.mark.parametrize("name", SECRETS)
@pytest.mark.parametrize("form", ["{}\n", "{}\r", "\ufeff{}", "\ufeff{}\r\n", "\n{}\n\n"])
def test_line_ends_and_a_byte_order_mark_around_a_secret_are_ignored(where, name, form, monkeypatch, tmp_path):
    visible = VISIBLE.get(name, "whole secret")
    set_in(where, name, form.format(visible), monkeypatch, tmp_path)
    settings = load_settings()
    assert plain(getattr(settings, name)) == visible
    is_usual = where == "file" and form.startswith("{}")
    said = f"{name.upper()} begins or ends with invisible characters, which are ignored."
    assert settings.remarks == (() if is_usual else (said,))


@pytest.mark.parametrize("where", ["variable", "file"])
@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("sign", INVISIBLE)
def test_another_invisible_end_of_a_key_or_password_is_refused(where, name, sign, monkeypatch, tmp_path):
    for text in (f"secret{sign}", f"{sign}secret", f"secret{sign}\n"):
        set_in(where, name, text, monkeypatch, tmp_path)
        sentence = refused()
        assert sentence == f"{name.upper()} begins or ends with an invisible character, such as a blank: remove it."


@pytest.mark.parametrize("name", [*sorted({*SECRETS} - {*EXACT}), "drive_api_url", "push_http_url", "roam_ocpi_url"])
@pytest.mark.parametrize("sign", INVISIBLE)
def test_another_invisible_end_of_a_token_or_url_is_ignored(name, sign, monkeypatch):
    visible = "https://host/push" if name.endswith("_url") and name not in VISIBLE else VISIBLE.get(name, "a b")
    monkeypatch.setenv(name.upper(), f"{sign}{visible}{sign}")
    assert plain(getattr(load_settings(), name)) == visible


@pytest.mark.parametrize("encoding", ["utf8", "base64", "hex"])
def test_a_line_end_is_ignored_in_every_encoding_of_a_key(encoding):
    keyring = Keyring(load_settings(plugsurfing_hmac_current="abcd\r\n", plugsurfing_hmac_encoding=encoding))
    assert keyring.keys.current == decode_key("abcd", encoding)


def test_invisible_ends_of_each_authorization_value_are_ignored():
    values = authorization_values(SecretStr("\ufeffBearer a\u200b\r\n\u00a0Bearer b\t"))
    assert values == (b"Bearer a", b"Bearer b")


VALUES = {"redis_url": "redis://host", "database_url": "sqlite:///x.db"}


@pytest.mark.parametrize("name", SECRETS)
def test_every_secret_may_be_a_file(name, tmp_path, monkeypatch):
    value = VALUES.get(name, "secret with spaces")
    (tmp_path / "file").write_text(value + "\r\n")
    monkeypatch.setenv(f"{name.upper()}_FILE", str(tmp_path / "file"))
    read = getattr(load_settings(), name)
    assert (read.get_secret_value() if isinstance(read, SecretStr) else read) == value


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_and_its_file_cannot_both_be_set(name, tmp_path, monkeypatch):
    (tmp_path / ".env").write_text(f"{name.upper()}=secret\n")
    monkeypatch.setenv(f"{name.upper()}_FILE", str(tmp_path / "secret-file"))
    assert refused() == f"{name.upper()} and {name.upper()}_FILE are both set."


@pytest.mark.parametrize("content", [None, b"\xff\xfesecret"])
def test_a_file_that_cannot_be_read_is_refused_by_name(content, tmp_path, monkeypatch):
    path = tmp_path / "secret-file"
    if content is not None:
        path.write_bytes(content)
    monkeypatch.setenv("PLUGSURFING_HMAC_CURRENT_FILE", str(path))
    sentence = refused()
    assert sentence.startswith("PLUGSURFING_HMAC_CURRENT_FILE names a file that cannot be read")
    assert "secret" not in sentence


@pytest.mark.parametrize("name", ["PLUGSURFING_HMAC_CURRENT", "PLUGSURFING_HMAC_NEXT"])
def test_an_empty_key_file_is_refused(name, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("\n")
    monkeypatch.setenv(f"{name}_FILE", str(tmp_path / "file"))
    assert refused() == f"{name} is set, but empty."


@pytest.mark.parametrize("text", [None, "", " \n", "CA\r\n"])
def test_beside_a_current_key_the_file_of_next_may_be_missing_or_blank_or_equal(text, tmp_path, monkeypatch):
    if text is not None:
        (tmp_path / "file").write_text(text)
    monkeypatch.setenv("PLUGSURFING_HMAC_CURRENT", "ca")
    monkeypatch.setenv("PLUGSURFING_HMAC_ENCODING", "hex")
    monkeypatch.setenv("PLUGSURFING_HMAC_NEXT_FILE", str(tmp_path / "file"))
    settings = load_settings()
    assert settings.plugsurfing_hmac_current == SecretStr("ca")
    assert settings.plugsurfing_hmac_next is None


def test_a_file_of_the_next_key_that_is_not_text_is_refused(tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"\xff\xfesecret")
    monkeypatch.setenv("PLUGSURFING_HMAC_CURRENT", "ca")
    monkeypatch.setenv("PLUGSURFING_HMAC_NEXT_FILE", str(tmp_path / "file"))
    assert refused().startswith("PLUGSURFING_HMAC_NEXT_FILE names a file that cannot be read")


def test_serve_requires_a_key_or_an_authorization_value():
    with pytest.raises(SettingsError, match="PLUGSURFING_HMAC_CURRENT is not set"):
        load_settings().require_signing()
    with pytest.raises(SettingsError, match="PLUGSURFING_HMAC_CURRENT is not set"):
        load_settings(plugsurfing_authorization="Bearer x").require_signing()
    with pytest.raises(SettingsError, match="PLUGSURFING_AUTHORIZATION"):
        load_settings(plugsurfing_hmac_current="x", plugsurfing_hmac_required=False).require_signing()
    load_settings(plugsurfing_hmac_current="x").require_signing()
    load_settings(plugsurfing_hmac_next="x").require_signing()
    load_settings(plugsurfing_authorization="Bearer x", plugsurfing_hmac_required=False).require_signing()


def test_a_process_that_needs_redis_refuses_to_start_without_it():
    with pytest.raises(SettingsError, match=r"\AREDIS_URL is not set"):
        load_settings().require_redis()


def test_every_setting_is_described_with_its_default_and_no_secret(tmp_path):
    settings = load_settings(
        plugsurfing_hmac_current="secret1",
        plugsurfing_hmac_next="secret2",
        plugsurfing_authorization="secret3",
        redis_url="rediss://user:se%2Fcr@et@host:6379/0?password=secret&db=1",
        database_url="postgres://user:secret@host/db",
        dashboard_password="secret",
        hold_back="250ms",
    )
    described = {line.name: line for line in settings.describe_all()}
    assert described.keys() == {name.upper() for name in Settings.model_fields}
    assert all(line.default and line.effective and line.description for line in described.values())
    assert described["PLUGSURFING_HMAC_CURRENT"][1:3] == (NOT_SET, "***")
    assert described["REDIS_URL"].effective == "rediss://***@host:6379/0?password=***&db=1"
    assert described["DATABASE_URL"].effective == "postgresql+psycopg://***@host/db"
    assert described["HOLD_BACK"][1:3] == ("2 s", "250 ms")
    assert described["PLUGSURFING_HMAC_REQUIRED"][1:3] == ("true", "true")
    assert described["DATA_DIR"][1:3] == ("./var", str(tmp_path / "var"))
    assert described["PUSH"][1:3] == ("log", "log")
    values = [line._replace(description="") for line in described.values()]
    assert not re.search(r"se(%2F)?cr", f"{values} {settings!r} {settings}")


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ("PLUGSURFING_HMAC_CURRENT='a${HOST}$HOST#b'", "a${HOST}$HOST#b"),
        ("  PLUGSURFING_HMAC_CURRENT = 'it\\'s'", "it's"),
        ('PLUGSURFING_HMAC_CURRENT="a${HOST}$HOST # b"', "a0.0.0.0$HOST # b"),
        ("PLUGSURFING_HMAC_CURRENT=a${HOST}$HOST # b", "a0.0.0.0$HOST"),
        ("export PLUGSURFING_HMAC_CURRENT=a${NEVER:-b}${NEVER}", "ab"),
    ],
)
def test_a_dotenv_is_read_as_a_shell_reads_it(tmp_path, line, key):
    (tmp_path / ".env").write_text(f"HOST=0.0.0.0\n# a comment\n{line}\n")
    settings = load_settings()
    assert settings.plugsurfing_hmac_current.get_secret_value() == key
    assert settings.host == "0.0.0.0"


@pytest.mark.parametrize("name", ["a b", "%20", "50%", "who?", "#1", "?%3F#&=", "ü"])
def test_the_folder_of_data_may_have_any_name(tmp_path, name):
    settings = load_settings(data_dir=tmp_path / name)
    assert make_url(settings.database_url).database == str(tmp_path / name / "ledger.db")
    assert not make_url(settings.database_url).query
