"""Every type of a setting: what it parses, and what it refuses without quoting it."""

import re
from ipaddress import ip_network
from pathlib import Path

import pytest

from ingest.config.settings import Settings, load_settings
from ingest.config.types import read_networks
from ingest.errors import SettingsError
from ingest.wire.authorization.response_templates import ResponseTemplate


@pytest.fixture(autouse=True)
def bare_environment(tmp_path, monkeypatch):
    """No setting of the machine that the tests run on."""
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.chdir(tmp_path)


def refused(**overrides):
    with pytest.raises(SettingsError) as caught:
        load_settings(**overrides)
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("redis_url", "redis://:s3cr/etpw@host:6379/0"),
        ("redis_url", "redis://:12/s3cr@host:6379/0"),
        ("redis_url", "redis://:12#s3cr@host:6379/0"),
        ("redis_url", "rediss://:12?s3cr@host:6379/0"),
        ("redis_url", "redis://host:s3cr"),
        ("redis_url", "redis://host:70000"),
        ("redis_url", "redis://[host"),
        ("redis_url", "redis://host?db=s3cr"),
        ("redis_url", "unix:///socket?db=s3cr"),
        ("redis_url", "redis+sentinel://host:1"),
        ("redis_url", "redis+sentinel://host:1//0"),
        ("redis_url", "redis+sentinel:///service"),
        ("redis_url", "redis+sentinel://host:1,:2/service"),
        ("redis_url", "redis+sentinel://host:1,other:s3cr/service"),
        ("redis_url", "redis+sentinel://host:0/service"),
        ("redis_url", "redis+sentinel://host:1/service/s3cr"),
        ("redis_url", "redis+sentinel://:a@s3cr@host:1/service/0"),
        ("redis_url", "redis+sentinel://:s3cr/etpw@host:1/service/0"),
        ("database_url", "postgresql://u:p@host:s3cr/x"),
        ("database_url", "postgresql://u:p@host:70000/x"),
        ("database_url", "postgresql://host:1,other:2/x"),
        ("database_url", "postgres://u:p@s3cr@host/x"),
        ("database_url", "postgresql+psycopg://u:p@s3cr/etpw@host/x"),
        ("database_url", "postgresql://u:p@[host/x"),
    ],
)
def test_an_invalid_url_is_refused_and_not_quoted(name, value, monkeypatch):
    monkeypatch.setenv(name.upper(), value)
    sentence = refused()
    assert sentence.startswith(f"{name.upper()} is not a URL ")
    assert "s3cr" not in sentence


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("redis_url", "redis://"),
        ("redis_url", "redis://host:1/0?password=a@b"),
        ("redis_url", "rediss://user:p%40%2F@host"),
        ("redis_url", "redis://user:p@w@host:1"),
        ("redis_url", "redis://[::1]:6379/1"),
        ("redis_url", "unix:///tmp/a@b.sock?db=1"),
        ("redis_url", "unix:///run/my valkey/v.sock"),
        ("redis_url", "unix://user:pass@/run/v.sock"),
        ("redis_url", "redis+sentinel://host/service"),
        ("redis_url", "redis+sentinel://:p@host:1,other:2?service=s&db=1"),
        ("database_url", "sqlite:////tmp/a[b@c:d/x.db"),
        ("database_url", "postgresql+psycopg://u:p/w#w?w[w@host:5432/x?sslmode=require"),
        ("database_url", "postgresql+psycopg://u:p@/x?host=/run/a@b"),
        ("database_url", "postgresql+psycopg:///x"),
        ("database_url", "postgresql+psycopg://u@[::1]:5/x"),
    ],
)
def test_a_url_that_its_library_accepts_is_unchanged(name, value):
    assert getattr(load_settings(**{name: value}), name) == value


@pytest.mark.parametrize("url", ["unix://", "unix:///", "unix:// /run/v.sock", "unix://run/v.sock", "unix:///?db=1"])
def test_a_socket_without_its_whole_path_is_refused(url, monkeypatch):
    """The client would try another socket, or none, again and again."""
    monkeypatch.setenv("REDIS_URL", url)
    assert refused().startswith("REDIS_URL needs the whole path of a socket after unix://")


@pytest.mark.parametrize("scheme", ["postgres://", "postgresql://", "postgresql+psycopg://"])
def test_every_scheme_of_postgresql_becomes_that_of_psycopg(scheme):
    settings = load_settings(database_url=f"{scheme}user:secret@host/postgres://")
    assert settings.database_url == "postgresql+psycopg://user:secret@host/postgres://"


@pytest.mark.parametrize("place", ["file", "file/var"])
def test_a_data_folder_that_is_a_file_is_refused(tmp_path, place):
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError, match=r"^DATA_DIR is, or is in, a file and not a folder\.$"):
        load_settings(data_dir=tmp_path / place)


def test_a_home_folder_is_expanded(monkeypatch):
    monkeypatch.setenv("HOME", "/home/of/nobody")
    assert load_settings(data_dir="~/var").data_dir == Path("/home/of/nobody/var")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("push_http_url", "ftp://example.org"),
        ("drive_api_url", "https:///path"),
        ("default_locale", "german"),
        ("default_time_zone", "Europe"),
        ("default_time_zone", "Mars/Olympus"),
        ("authorize_answer", "{}"),
        ("authorize_key", "no pointer"),
        ("cdr_request_id", "two words"),
    ],
)
def test_an_invalid_value_is_refused_by_name(name, value):
    assert re.match(rf"{name.upper()} must ", refused(**{name: value}))


def test_values_are_parsed_into_their_types():
    settings = load_settings(
        push_http_url="https://example.org/push",
        default_locale="nl-BE",
        default_time_zone="Europe/Amsterdam",
        authorize_answer='{"allowed": "@allowed"}',
        authorize_key="/a,/b",
        cdr_request_id="/requestId,X-Request-Id",
        plugsurfing_sources="192.0.2.7,::ffff:198.51.100.0/120",
    )
    assert settings.authorize_answer == ResponseTemplate('{"allowed": "@allowed"}')
    assert [str(pointer) for pointer in settings.authorize_key] == ["/a", "/b"]
    assert [str(path) for path in settings.cdr_request_id] == ["/requestId", "X-Request-Id"]
    assert settings.plugsurfing_sources == (ip_network("192.0.2.7"), ip_network("198.51.100.0/24"))
    assert (settings.default_locale, settings.default_time_zone) == ("nl-BE", "Europe/Amsterdam")


def test_values_that_are_parsed_already_pass_unchanged():
    once = load_settings(authorize_key="/a,/b", authorize_answer='{"allowed": "@allowed"}')
    again = load_settings(authorize_key=once.authorize_key, authorize_answer=once.authorize_answer)
    assert (again.authorize_key, again.authorize_answer) == (once.authorize_key, once.authorize_answer)


@pytest.mark.parametrize("value", [None, 5, " , ", "192.0.2.7/8"])
def test_a_list_of_networks_is_text_and_not_blank(value):
    with pytest.raises(ValueError, match=r"must be|is set, but empty"):
        read_networks(value)
